"""What exporting needs of the world."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from crosslogic_billing.export.domain import Credit, Hour, How, Lane, MeterEvent, Outcome, Unit


class BillingSink(Protocol):
    """The payment provider, as narrow as we use it. Another one is another implementation of this."""

    async def send(self, event: MeterEvent) -> Outcome:
        """Delivers one meter event. Never raises for what the provider or the network does."""

    async def summed(
        self, *, customer_id: str, event_name: str, since: datetime, until: datetime
    ) -> dict[datetime, float]:
        """What the provider has counted, by hour; both bounds are full hours. Raises UNAVAILABLE."""

    async def prepare(self, *, customer_id: str, event_name: str, unit: Unit, subscription_id: str) -> None:
        """Makes what an event needs at the provider, unless it is there. Raises UNAVAILABLE."""

    async def credits(self, customer_id: str) -> dict[str, int]:
        """Credits that the provider has given a customer for us: cents by id. Raises UNAVAILABLE, NOT_FOUND."""

    async def give(self, credit: Credit) -> Outcome:
        """Gives a customer credit. Never raises for what the provider or the network does."""


class OutboxStore(Protocol):
    """Meter events and who may send them, durable."""

    async def lease(self, now: datetime, until: datetime, limit: int) -> Sequence[Lane]:
        """Lanes with something to send, due and not leased, leased from now on."""

    async def begin(
        self, lane: Lane, now: datetime, until: datetime, *, past: Sequence[int] = (), newest: bool = False
    ) -> MeterEvent | None:
        """The lane's oldest (or `newest`) pending event that is due and not one of `past`, about to be sent.

        Those that were set aside come last. The lease holds until then. The event is noted before it is sent: from
        here on Stripe may have it.
        It is told with `unknown_since` as it was before. None: there is none, or the lease was lost.
        """

    async def again(self, event: MeterEvent, now: datetime) -> MeterEvent:
        """Stripe surely has it not; it is about to be sent, as a new attempt."""

    async def delivered(self, event: MeterEvent, how: How, now: datetime) -> None:
        """Stripe has it."""

    async def dead(self, event: MeterEvent, reason: str) -> None:
        """It waits for an operator."""

    async def failed(self, event: MeterEvent, reason: str, *, unknown: bool) -> None:
        """It stays pending. Not `unknown`: Stripe does not have it from this attempt; before it, who knows."""

    async def set_aside(self, event: MeterEvent, until: datetime) -> None:
        """It waits by itself; others of its lane go past it."""

    async def release(self, lane: Lane, *, due_at: datetime, failures: int) -> None:
        """Ends a lease, unless it was lost."""

    async def hour_of(self, event: MeterEvent, since: datetime, until: datetime, now: datetime) -> Hour:
        """What Stripe should have of the event's customer and meter from `since` to before `until`, without it."""

    async def counts(self, now: datetime) -> Mapping[str, float]:
        """`pending`, `dead`, `oldest_s`."""

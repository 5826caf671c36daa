"""Sends what is in the outbox: in order for each customer and meter, one call at a time, as often as it takes."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta

from crosslogic_billing.export import policy
from crosslogic_billing.export.domain import Delivered, Lane, MeterEvent, Outcome, Rejected, Retry
from crosslogic_billing.export.outbox_store import PostgresOutbox
from crosslogic_billing.export.ports import BillingSink
from crosslogic_billing.metrics import BillingMetrics
from crosslogic_billing.work import work_for_ever
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger

IDLE_S = 1.0
LEASE = timedelta(minutes=2)
"""Longer than any call may take."""
_EVENTS_A_LEASE = 50
_HOUR = timedelta(hours=1)


class Sender:
    """One replica's hands. Others may run beside it: a lane is leased by one at a time."""

    def __init__(
        self,
        *,
        outbox: PostgresOutbox,
        sink: BillingSink,
        clock: Clock,
        metrics: BillingMetrics,
        lanes_at_once: int,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`draw` gives numbers of 0 to 1, for jitter."""
        self._outbox = outbox
        self._sink = sink
        self._clock = clock
        self._metrics = metrics
        self._lanes_at_once = lanes_at_once
        self._draw = draw
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Sends for ever."""

        async def step() -> bool:
            return await self.send_due() > 0

        await work_for_ever(step, name=__name__, trouble="outbox not sent, trying again", idle_s=IDLE_S)

    async def send_due(self) -> int:
        """Sends what is due now. How many lanes there were."""
        now = self._clock.now()
        lanes = await self._outbox.lease(now, now + LEASE, self._lanes_at_once)
        if lanes:
            async with asyncio.TaskGroup() as sending:
                for lane in lanes:
                    sending.create_task(self._send_lane(lane))
        counts = await self._outbox.counts(self._clock.now())
        self._metrics.outbox(pending=int(counts["pending"]), dead=int(counts["dead"]), oldest_s=counts["oldest_s"])
        return len(lanes)

    async def _send_lane(self, lane: Lane) -> None:
        if not await self._prepared(lane):
            await self._release(lane, lane.failures + 1)
            return
        failures, failed, answered = lane.failures, 0, False
        stuck: list[MeterEvent] = []
        for _ in range(_EVENTS_A_LEASE):
            now = self._clock.now()
            newest = answered or policy.tries_newest(failures, len(stuck))
            event = await self._outbox.begin(lane, now, now + LEASE, past=[one.id for one in stuck], newest=newest)
            if event is None:
                break
            outcome = await self._deliver(event, now)
            if not isinstance(outcome, Retry):
                # Stripe answers: it is the stuck events that it cannot take now. The others need not wait for them.
                answered = answered or bool(stuck)
                await self._set_aside(stuck)
                stuck, failures = [], 0
                continue
            failed += 1
            if outcome.unknown and (answered or event.set_aside):
                await self._set_aside([event])
            else:
                stuck.append(event)
                if not outcome.unknown or len(stuck) >= policy.tries(failures):
                    break
            if failed >= policy.MOST_TRIES:
                break
        await self._release(lane, failures + 1 if stuck else failures)

    async def _set_aside(self, stuck: list[MeterEvent]) -> None:
        for event in stuck:
            wait = timedelta(seconds=policy.wait_s(event.attempts, self._draw()))
            await self._outbox.set_aside(event, self._clock.now() + wait)

    async def _prepared(self, lane: Lane) -> bool:
        try:
            await self._sink.prepare(
                customer_id=lane.customer_id,
                event_name=lane.event_name,
                unit=lane.unit,
                subscription_id=lane.subscription_id,
            )
        except CodedError as error:
            self._metrics.exported("retried")
            self._log.warning("a meter is not ready", event_name=lane.event_name, reason=error.private or error.public)
            return False
        return True

    async def _release(self, lane: Lane, failures: int) -> None:
        wait = timedelta(seconds=policy.wait_s(failures, self._draw()))
        await self._outbox.release(lane, due_at=self._clock.now() + wait, failures=failures)

    async def _deliver(self, event: MeterEvent, now: datetime) -> Outcome:
        outcome: Outcome
        if policy.must_look_first(event, now):
            outcome = self._or_given_up(event, await self._looked_up(event, now), now)
            if isinstance(outcome, Delivered | Rejected) or outcome.unknown:
                await self._settle(event, outcome)
                return outcome
            # Stripe surely does not have it: it may be sent again.
            event = await self._outbox.again(event, now)
        if policy.too_old(event, now):
            outcome = Rejected("older than 35 days: Stripe takes it no more; bill it by an invoice item")
        else:
            outcome = self._or_given_up(event, await self._sink.send(event), now)
        await self._settle(event, outcome)
        return outcome

    @staticmethod
    def _or_given_up(event: MeterEvent, outcome: Outcome, now: datetime) -> Outcome:
        if isinstance(outcome, Retry) and outcome.unknown and policy.give_up(event, now):
            return Rejected(
                f"not delivered in {policy.GIVE_UP.days} days, and Stripe takes it for 35: {outcome.reason}"
            )
        return outcome

    async def _settle(self, event: MeterEvent, outcome: Outcome) -> None:
        if isinstance(outcome, Delivered):
            await self._outbox.delivered(event, outcome.how, self._clock.now())
            self._metrics.exported("delivered" if outcome.how == "accepted" else outcome.how)
        elif isinstance(outcome, Rejected):
            await self._outbox.dead(event, outcome.reason)
            self._metrics.exported("dead")
            self._log.error("meter event is a dead letter", identifier=event.identifier, reason=outcome.reason)
        else:
            await self._outbox.failed(event, outcome.reason, unknown=outcome.unknown)
            self._metrics.exported("retried")
            level = self._log.error if outcome.ours else self._log.warning
            level("meter event not delivered", identifier=event.identifier, reason=outcome.reason)

    async def _looked_up(self, event: MeterEvent, now: datetime) -> Outcome:
        """Whether Stripe has an event whose outcome was never learnt, by the sum of its hour.

        A Retry that is not `unknown`: it does not.
        """
        since = _full_hour(event.window_start)
        try:
            sums = await self._sink.summed(
                customer_id=event.customer_id, event_name=event.event_name, since=since, until=since + _HOUR
            )
        except CodedError as error:
            return Retry(f"summaries not read: {error.private or error.public}"[:500], unknown=True)
        summary = sums.get(since, 0.0)
        hour = await self._outbox.hour_of(event, since, since + _HOUR, now)
        with_it, without = policy.found_in(summary, hour, event.value)
        if with_it and without:
            return Retry("Stripe's sum of its hour does not tell yet whether it is in it", unknown=True)
        if with_it:
            return Delivered("in_summary")
        if without:
            return Retry("Stripe's summary does not have it", unknown=False)
        known = hour.surely + sum(hour.perhaps)
        return Rejected(
            f"unknown for more than 20 h, and Stripe's sum of its hour, {summary:.0f}, is neither {known} nor "
            f"{known + event.value}" + (", nor any part of it" if hour.perhaps else "")
        )


def _full_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)

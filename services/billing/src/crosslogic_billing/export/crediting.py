"""Gives back what was exported and is not owed after a correction: as credit on the customer's balance, each once."""

import random
from collections.abc import Callable
from datetime import timedelta

from crosslogic_billing.export import policy
from crosslogic_billing.export.credit_store import PostgresCredits
from crosslogic_billing.export.domain import Credit, Delivered, Outcome, Rejected, Retry
from crosslogic_billing.export.ports import BillingSink
from crosslogic_billing.work import work_for_ever
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger

IDLE_S = 5.0
LEASE = timedelta(minutes=2)
"""Longer than any call may take."""


class CreditGiver:
    """One replica's hands. Others may run beside it: a credit is leased by one at a time."""

    def __init__(
        self,
        *,
        store: PostgresCredits,
        sink: BillingSink,
        clock: Clock,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`draw` gives numbers of 0 to 1, for jitter."""
        self._store = store
        self._sink = sink
        self._clock = clock
        self._draw = draw
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Gives for ever."""

        async def step() -> bool:
            return await self.give_due() > 0

        await work_for_ever(step, name=__name__, trouble="credits not given, trying again", idle_s=IDLE_S)

    async def give_due(self) -> int:
        """Gives one that is due. How many there were."""
        now = self._clock.now()
        credit = await self._store.begin(now, now + LEASE)
        if credit is None:
            return 0
        outcome = await self._outcome(credit)
        if isinstance(outcome, Delivered):
            await self._store.given(credit, self._clock.now())
            self._log.info("credit given", org_id=credit.org_id, month=str(credit.month), cents=credit.cents)
            return 1
        wait = timedelta(seconds=policy.wait_s(credit.attempts, self._draw()))
        await self._store.failed(
            credit,
            outcome.reason,
            answered=isinstance(outcome, Rejected) or not outcome.reason.startswith(policy.NO_ANSWER),
            due_at=self._clock.now() + wait,
        )
        self._log.error("credit not given, trying again", org_id=credit.org_id, reason=outcome.reason)
        return 1

    async def _outcome(self, credit: Credit) -> Outcome:
        if credit.attempts > 1:
            # An attempt before may have come to something.
            try:
                known = await self._sink.credits(credit.customer_id)
            except CodedError as error:
                return Retry(f"{policy.NO_ANSWER}: {error.private or error.public}"[:500], unknown=True)
            if credit.id in known:
                return Delivered("in_summary")
        return await self._sink.give(credit)

"""Makes reports, daily and on demand."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol

from crosslogic_billing.export.ports import BillingSink
from crosslogic_billing.reconcile import policy
from crosslogic_billing.reconcile.domain import CreditTotals, LedgerTotals, Line, MeterTotals, Report
from crosslogic_billing.reconcile.store import PostgresReconciliations
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

MAX_DAYS = 35
LOOK_S = 300.0
DAILY_AT = time(3, 0)
"""UTC: by then a day's late records have come, and Stripe has added them up."""
_LATELY = timedelta(hours=1)
_MAX_CHARS = 200
_MAX_NOTE = 2_000


class Totals(Protocol):
    """The accountant, as far as reconciliation needs it."""

    async def compared(self, since: datetime, until: datetime) -> LedgerTotals:
        """Witnesses, records and rollups of a period. Raises UNAVAILABLE, TIMEOUT."""

    async def rebuild(self, since: datetime, until: datetime) -> int:
        """Makes the period's rollups anew; how many were wrong. Raises UNAVAILABLE."""


class Standings(Protocol):
    """Identity beside what is known here of it."""

    async def drifted(self) -> tuple[int, set[str]]:
        """How many organisations there are, and those that stand otherwise here. Raises UNAVAILABLE, TIMEOUT."""


class Reconciler:
    """Compares every place that counts with the next one."""

    def __init__(
        self,
        *,
        store: PostgresReconciliations,
        totals: Totals,
        standings: Standings,
        sink: BillingSink | None,
        clock: Clock,
        new_id: Callable[[], str],
        on_report: Callable[[int], None] = lambda _unexplained: None,
    ) -> None:
        """Without a `sink` nothing is exported, and nothing is compared with the provider.

        `on_report` is told of each report's unexplained lines.
        """
        self._store = store
        self._totals = totals
        self._standings = standings
        self._sink = sink
        self._clock = clock
        self._new_id = new_id
        self._on_report = on_report
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Makes yesterday's report each morning."""
        while True:
            try:
                await self.daily()
            except CodedError as error:
                self._log.warning("not reconciled, trying again", reason=error.private or error.public)
            await asyncio.sleep(LOOK_S)

    async def daily(self) -> Report | None:
        """Yesterday's report, if it is time and there is none."""
        now = self._clock.now()
        yesterday = now.date() - timedelta(days=1)
        if now.time() < DAILY_AT or await self._store.made_for(yesterday):
            return None
        return await self.reconcile(yesterday, now.date())

    async def reconcile(self, from_day: date, to_day: date) -> Report:
        """A report over some days. Raises INVALID_ARGUMENT, UNAVAILABLE (the accountant)."""
        if not timedelta(0) < to_day - from_day <= timedelta(days=MAX_DAYS):
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"Ask for 1 to {MAX_DAYS} days.", param="to_day")
        since, until = (datetime.combine(day, time(), UTC) for day in (from_day, to_day))
        missing: list[str] = []
        lines = [*await self._terms(missing), *await self._ledger(since, until)]
        # The month before is looked at too: its last windows may have come late.
        first = (from_day.replace(day=1) - timedelta(days=1)).replace(day=1)
        lines += policy.month_lines(await self._store.months(first, exporting=self._sink is not None))
        lines += policy.meter_lines(await self._meters(since, until, missing))
        lines += policy.credit_lines(await self._credits(missing))
        if self._sink is not None and any(line.what == "month = exported" and line.unexplained for line in lines):
            await self._store.catch_up(first)
            missing.append("months that owe more than was exported are looked at again")
        report = Report(
            id=self._new_id(),
            from_day=from_day,
            to_day=to_day,
            created_at=self._clock.now(),
            lines=tuple(policy.ordered(lines)),
            missing=tuple(missing),
            unexplained=sum(line.unexplained for line in lines),
        )
        await self._store.add(report)
        self._on_report(report.unexplained)
        level = self._log.error if report.unexplained else self._log.info
        level("reconciled", from_day=str(from_day), to_day=str(to_day), unexplained=report.unexplained)
        return report

    async def listed(self, before: str, limit: int) -> list[Report]:
        """Reports, newest first."""
        return await self._store.listed(before, limit)

    async def sign(self, id_: str, *, signed_by: str, note: str) -> Report:
        """Signs a report off. Raises NOT_FOUND, INVALID_ARGUMENT, CONFLICT."""
        if not 1 <= len(signed_by) <= _MAX_CHARS or not signed_by.isprintable():
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"`signed_by` must have 1 to {_MAX_CHARS} characters.", param="signed_by"
            )
        if len(note) > _MAX_NOTE or "\0" in note:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`note` has more than {_MAX_NOTE} characters.", param="note")
        report = await self._store.sign(id_, signed_by=signed_by, note=note, now=self._clock.now())
        if report is None:
            raise CodedError(ErrorCode.NOT_FOUND)
        if (report.signed_by, report.signed_note) != (signed_by, note):
            raise CodedError(ErrorCode.CONFLICT, "It is signed already.")
        return report

    async def _ledger(self, since: datetime, until: datetime) -> list[Line]:
        ledger = await self._totals.compared(since, until)
        repaired = 0
        if ledger.rollup_differences:
            # Rollups can always be made anew from records.
            repaired = await self._totals.rebuild(since, until)
            ledger = await self._totals.compared(since, until)
        lines = policy.ledger_lines(ledger)
        if repaired:
            lines.append(
                Line("rollups repaired", "sums", repaired, 0, "they were not what their records say, and are made anew")
            )
        return lines + policy.window_lines(ledger, await self._store.windows(since, until))

    async def _terms(self, missing: list[str]) -> list[Line]:
        try:
            count, drifted = await self._standings.drifted()
        except CodedError as error:
            missing.append(f"identity: {error.private or error.public}"[:300])
            return []
        return policy.terms_lines(count, drifted)

    async def _meters(self, since: datetime, until: datetime, missing: list[str]) -> list[MeterTotals]:
        if self._sink is None:
            missing.append("the payment provider: none is configured")
            return []
        compared: list[MeterTotals] = []
        now = self._clock.now()
        for meter in await self._store.meters(since, until, now - _LATELY):
            try:
                sums = await self._sink.summed(
                    customer_id=meter.customer_id, event_name=meter.event_name, since=since, until=until
                )
            except CodedError as error:
                missing.append(f"{meter.event_name} of {meter.customer_id}: {error.private or error.public}"[:300])
                continue
            compared.append(replace(meter, at_stripe=int(sum(sums.values()))))
        return compared

    async def _credits(self, missing: list[str]) -> list[CreditTotals]:
        compared: list[CreditTotals] = []
        if self._sink is None:
            return compared
        for credit in await self._store.credits():
            try:
                known = await self._sink.credits(credit.customer_id)
            except CodedError as error:
                missing.append(f"credits of {credit.customer_id}: {error.private or error.public}"[:300])
                continue
            compared.append(replace(credit, at_stripe=sum(known.values())))
        return compared

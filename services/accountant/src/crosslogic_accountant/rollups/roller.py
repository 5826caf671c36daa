"""Keeps the rollups in step with the records, and looks after them."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg

from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.rollups.store import RollupStore
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger

_SETTLED_AFTER = timedelta(hours=1)
_HOUR = timedelta(hours=1)


class Roller:
    """Any number of replicas may run one: whoever holds the cursor works."""

    def __init__(self, *, store: RollupStore, metrics: LedgerMetrics) -> None:
        self._store = store
        self._metrics = metrics
        self._log = get_logger(__name__)

    async def run(self, interval_s: float = 0.5) -> None:
        """Rolls for ever. What fails is tried again: the cursor only moves with what it covers."""
        while True:
            await asyncio.sleep(await self._turn(interval_s))

    async def _turn(self, interval_s: float) -> float:
        try:
            rolled = await self._store.roll()
        except CodedError as error:
            self._log.warning("rolling up waits for the database", reason=error.private)
        except Exception as error:  # noqa: BLE001  # one bad turn must not end all turns
            self._log.error("rolling up failed", exc_info=error)
        else:
            self._metrics.rolled_up.inc(rolled)
            return 0.0 if rolled >= self._store.rows_a_step else interval_s
        return max(interval_s, 1.0)


class RollupChecker:
    """Compares each hour that is over with its records, and makes it anew where they differ."""

    def __init__(self, *, store: RollupStore, metrics: LedgerMetrics, now: Callable[[], datetime]) -> None:
        """`now` is the wall clock."""
        self._store = store
        self._metrics = metrics
        self._now = now
        self._checked: datetime | None = None
        self._log = get_logger(__name__)

    async def run(self, interval_s: float = 600.0) -> None:
        """Checks for ever."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.check()
            except (CodedError, psycopg.Error) as error:
                self._log.warning("checking rollups waits", reason=str(error))
            except Exception as error:  # noqa: BLE001  # one bad turn must not end all turns
                self._log.error("checking rollups failed", exc_info=error)

    async def check(self) -> int:
        """Checks the last hour that is settled, once; returns how many of its sums were wrong."""
        hour = (self._now().astimezone(UTC) - _SETTLED_AFTER - _HOUR).replace(minute=0, second=0, microsecond=0)
        if hour == self._checked:
            return 0
        wrong = await self._store.differences(hour, hour + _HOUR)
        if wrong:
            self._metrics.rollup_differences.inc(wrong)
            self._log.error("rollups differ from their records; made anew", hour=hour.isoformat(), sums=wrong)
            await self._store.rebuild(hour, hour + _HOUR)
        self._checked = hour
        return wrong

"""Filling an empty Redis: what an organisation used lately, from the ledger."""

import asyncio
from collections.abc import Callable

from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_gateway.admission.limits import Kind, Spec, nanodollars
from crosslogic_gateway.admission.pipe import SEED, Operation, ScriptPipe
from crosslogic_gateway.admission.ports import Ledger, Used
from crosslogic_gateway.admission.redis_link import RedisAway

WAIT_S = 1.0
"""How long a request waits for its organisation's figures; then this worker's share decides."""
REJOIN_S = 1.0
"""After Redis came back every worker tells what its requests hold: until then budgets are not opened."""
AWAY_S = 1.0
"""A ledger that did not answer is left alone for so long: requests must not each wait for it."""
MAX_AT_ONCE = 8
"""Organisations read from the ledger at a time: it must not drown when Redis comes back empty."""


class Seeding:
    """Seeds organisations, each once at a time. One a worker."""

    def __init__(self, *, pipe: ScriptPipe, ledger: Ledger, kinds: tuple[Kind, ...]) -> None:
        self._pipe = pipe
        self._ledger = ledger
        self._kinds = kinds
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._not_before = 0.0
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)
        self._log = get_logger(__name__)

    async def seed(self, spec: Spec) -> bool:
        """Seeds what the spec needs. False: the ledger did not say in time."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            return False
        if spec.budgets and self._pipe.times_away and loop.time() - self._pipe.up_since < REJOIN_S:
            return False
        task = self._running.get(spec.org_id)
        if task is None:
            task = self._running[spec.org_id] = asyncio.create_task(self._seed(spec), name="seed limits")
            task.add_done_callback(lambda _: self._running.pop(spec.org_id, None))
        done, _ = await asyncio.wait([task], timeout=WAIT_S)
        return bool(done) and not task.cancelled() and task.result()

    async def close(self) -> None:
        """Gives up what is under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _seed(self, spec: Spec) -> bool:
        try:
            async with self._at_once:
                used = await self._ledger.used(spec.org_id)
                spent = await self._ledger.spent(spec.org_id, spec.budgets) if spec.budgets else []
            budgets = [
                (f"{budget.id}:{found.period_name}", nanodollars(found.picodollars))
                for budget, found in zip(spec.budgets, spent, strict=True)
            ]
            await self._pipe.ask(spec.org_id, None, self._operation(used, budgets))
        except CodedError as error:
            self._log.warning("limits are not seeded", org_id=spec.org_id, reason=error.private or error.public)
            self._not_before = asyncio.get_running_loop().time() + AWAY_S
            return False
        except RedisAway:
            return False
        return True

    def _operation(self, used: list[Used], budgets: list[tuple[str, int]]) -> Callable[[int], Operation]:
        entries = []
        for entry in used:
            for place, kind in enumerate(self._kinds, 1):
                amount = entry.tokens if kind.counted == "tokens" else entry.requests
                if kind.unit == entry.unit and amount and entry.age_us < kind.window_us:
                    entries.append((entry.layer, entry.owner_id, place, entry.age_us, amount))
        return lambda _: (SEED, entries, budgets)

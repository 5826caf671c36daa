"""What admission does in the background: leases, shares, the gauge of what is left, what dead workers left."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_gateway.admission.admission import Admission
from crosslogic_gateway.admission.limits import LAYERS, nanodollars
from crosslogic_gateway.admission.local import Share
from crosslogic_gateway.admission.metrics import AdmissionMetrics
from crosslogic_gateway.admission.pipe import REAPED, RENEW, SETTLE, MakeOperation, Operation, ScriptPipe
from crosslogic_gateway.admission.ports import Ledger
from crosslogic_gateway.admission.redis_link import RedisAway
from crosslogic_gateway.admission.view import KNOWN_FOR_S

RENEW_S = 2.0
"""Four chances before a lease ends."""
WORKERS_TAG = "workers"
REAPED_AFTER_S = 60.0
"""How long the ledger has to learn from nodes' witnesses what a dead worker's request used."""
GIVE_UP_AFTER_S = 300.0
"""A request that the ledger then still does not know cost nothing."""
RECONCILE_EVERY = 8
"""Rounds of renewal between looks at what dead workers left."""
MAX_REAPED = 100
MAX_VIEWS = 1000


class Upkeep:
    """Runs beside Admission. One a worker."""

    def __init__(
        self,
        *,
        admission: Admission,
        pipe: ScriptPipe,
        ledger: Ledger,
        metrics: AdmissionMetrics,
        worker: str,
        least_workers: int,
        renew_s: float = RENEW_S,
        reaped_after_s: float = REAPED_AFTER_S,
    ) -> None:
        """`least_workers`: at least so many share every limit, whoever is heard of."""
        self._admission = admission
        self._pipe = pipe
        self._ledger = ledger
        self._metrics = metrics
        self._worker = worker
        self._least_workers = least_workers
        self._renew_s = renew_s
        self._reaped_after_s = reaped_after_s
        self._log = get_logger(__name__)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works for as long as the block lasts."""
        task = asyncio.create_task(self._run(), name="admission upkeep")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        rounds = 0
        while True:
            await self.renew()
            self.measure()
            if rounds % RECONCILE_EVERY == RECONCILE_EVERY - 1:
                await self.reconcile()
            rounds += 1
            await asyncio.sleep(self._renew_s)

    async def renew(self) -> None:
        """Renews the leases of what is held, and counts the workers that share the limits."""
        try:
            for org_id in self._admission.live_orgs():
                self._pipe.ask(org_id, None, _renew).add_done_callback(_ignore)
            names = sorted(await self._pipe.ask(WORKERS_TAG, None, _renew))
        except RedisAway:
            return
        workers = max(len(names), self._least_workers)
        rank = names.index(self._worker) if self._worker in names else 0
        self._admission.local.share = Share(workers, rank)

    def measure(self) -> None:
        """Sets the gauge of what is left."""
        least = dict.fromkeys(LAYERS, 1.0)
        since = asyncio.get_running_loop().time() - KNOWN_FOR_S
        for view in self._admission.recent_views(MAX_VIEWS):
            if view.totals is None or view.totals_at < since:
                continue
            for counter, total in zip(view.spec.counters, view.totals[2:], strict=False):
                if counter.limit:
                    left = max(0.0, (counter.limit - total) / counter.limit)
                    least[counter.layer] = min(least[counter.layer], left)
        for layer, share in least.items():
            self._metrics.remaining.labels(layer).set(share)

    async def reconcile(self) -> None:
        """Settles what dead workers' requests held, as the ledger says: nodes' witnesses told it what they used."""
        for org_id in {view.spec.org_id for view in self._admission.recent_views(MAX_VIEWS) if view.spec.holds}:
            try:
                for ticket, age_us in await self._pipe.ask(org_id, None, _reaped(self._reaped_after_s)):
                    await self._settle(org_id, ticket, age_us / 1e6)
            except RedisAway:
                return
            except CodedError as error:
                self._log.warning("requests of dead workers are not settled", reason=error.private or error.public)
                return

    async def _settle(self, org_id: str, ticket: str, age_s: float) -> None:
        found = await self._ledger.settled(org_id, ticket)
        if found is None:
            if age_s > GIVE_UP_AFTER_S:
                self._pipe.tell(org_id, None, lambda _: (SETTLE, ticket, 0, 0, 0))
            return
        settled = (SETTLE, ticket, found.prompt_tokens, found.completion_tokens, nanodollars(found.cost_picodollars))
        self._pipe.tell(org_id, None, lambda _: settled)


def _renew(_: int) -> Operation:
    return (RENEW,)


def _reaped(since_s: float) -> MakeOperation:
    return lambda _: (REAPED, round(since_s * 1e6), MAX_REAPED)


def _ignore(answer: "asyncio.Future[object]") -> None:
    if not answer.cancelled():
        answer.exception()

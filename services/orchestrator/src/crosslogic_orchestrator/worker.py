"""Works on jobs: takes one, does the next thing, writes down what came of it, lets it go.

Every provider has a lane of its own: one that hangs holds up its own jobs and nobody else's.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import TypeVar

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_orchestrator import policy
from crosslogic_orchestrator.domain import ABSENT, Job, Loaded, Machine, NodeView, Step
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.ports import Fleet, Provider, ProviderError, Store

Answer = TypeVar("Answer")

LEASE_S = 30.0
_RENEW_S = 10.0
_IDLE_S = 0.5
_AWAY_S = 1.0
_PASSING = frozenset(
    {
        ErrorCode.UNAVAILABLE,
        ErrorCode.TIMEOUT,
        ErrorCode.CANCELLED,
        ErrorCode.OVERLOADED,
        ErrorCode.RATE_LIMITED,
        ErrorCode.INTERNAL,
    }
)
"""What the registry may answer otherwise later; anything else it will say again."""
_RETRY_S = 5.0
_CALL_S = 600.0
"""How long one call to a provider may take: a cloud that hangs must not hold a job for ever."""


class Worker:
    """Takes jobs, some of every provider at a time."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        providers: Mapping[str, Provider],
        clock: Clock,
        limits: policy.Limits,
        metrics: OrchestratorMetrics,
        lane: int = 4,
    ) -> None:
        """`providers` by the names that specs give; `lane` is how many jobs of one are worked on at a time."""
        self._store = store
        self._fleet = fleet
        self._providers = providers
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._lane = lane
        self._busy: Counter[str] = Counter()
        self._log = get_logger(__name__)

    async def run(self, *, wake: asyncio.Event) -> None:
        """Works for ever. `wake` is set when there may be something new to do."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    job = await self._claim()
                except CodedError as error:
                    self._away(error)
                    await asyncio.sleep(_AWAY_S)
                    continue
                if job is not None:
                    group.create_task(self._one_of_many(job, wake), name=f"job {job.id}")
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_S):
                        await wake.wait()
                wake.clear()

    async def work_once(self) -> bool:
        """Does one thing for one job. False: there was nothing to do."""
        job = await self._claim()
        if job is None:
            return False
        await self._work_on(job)
        return True

    async def _claim(self) -> Job | None:
        full = [name for name, jobs in self._busy.items() if jobs >= self._lane]
        job = await self._store.claim(lease_s=LEASE_S, passing_over=full)
        if job is not None:
            self._busy[job.instance.spec.provider] += 1
        return job

    async def _one_of_many(self, job: Job, wake: asyncio.Event) -> None:
        try:
            await self._work_on(job)
        except CodedError as error:
            self._away(error)
        finally:
            wake.set()

    def _away(self, error: CodedError) -> None:
        # The database or the registry is away. What was under way is taken up when the lease ends.
        self._log.warning("waiting", code=error.code, reason=error.private or error.public)

    async def _work_on(self, job: Job) -> None:
        try:
            async with self._held(job):
                await self._try(job)
        finally:
            self._busy[job.instance.spec.provider] -= 1

    async def _try(self, job: Job) -> None:
        try:
            await self._step(job)
        except ProviderError as error:
            await self._refused(job, str(error), temporary=error.temporary)
        except TimeoutError:
            await self._refused(job, f"The provider did not answer within {_CALL_S:g} s.", temporary=True)
        except CodedError:
            # Our own database: nothing can be written down now.
            raise
        except Exception as error:  # noqa: BLE001  # a full disk, a fault of ours: all other jobs go on
            self._log.exception("a job could not be worked on", job_id=job.id)
            reason = error.strerror if isinstance(error, OSError) else None
            words = f"Something is wrong on the orchestrator's side: {reason or type(error).__name__}."
            await self._refused(job, words, temporary=True)

    async def _step(self, job: Job) -> None:
        provider = self._providers.get(job.instance.spec.provider)
        if provider is None:
            await self._without_provider(job)
            return
        name = job.instance.id
        async with asyncio.timeout(_CALL_S):
            machine = await provider.find(name)
            try:
                node = self._fleet.node(name)
            except CodedError:
                if policy.needs_node(job, now=job.read_at):
                    # Not held against the job, which may have been at its step for long while nobody worked on it.
                    await self._rest(job, _AWAY_S, "The registry has not told of its nodes yet.")
                    return
                node = None
            decision = policy.decide(job, machine, node, now=job.read_at, limits=self._limits)
            await self._carry_out(decision, job, provider, machine, node)

    async def _without_provider(self, job: Job) -> None:
        if job.step == Step.TERMINATED or (job.error and job.step < Step.REQUESTED):
            # It is gone, or was never asked for: there is nothing to end.
            await self._end(job, ABSENT)
            return
        raise ProviderError(
            f"There is no provider {job.instance.spec.provider} any more: configure it again, or give the machine up "
            f"(`crosslogic instances terminate {job.instance.id} --abandon`).",
            temporary=True,
        )

    async def _carry_out(
        self, decision: policy.Decision, job: Job, provider: Provider, machine: Machine, node: NodeView | None
    ) -> None:
        name = job.instance.id
        match decision:
            case policy.Write():
                task = await provider.task_for(job.instance.spec, name)
                await self._reach(job, Step.TASK_WRITTEN, task=task)
            case policy.Request(again):
                await self._request(job, provider, again=again)
            case policy.Drain():
                await _of_registry(self._fleet.drain(name))
                await self._rest(job, _IDLE_S, "The node is told to drain.")
            case policy.Delete():
                await provider.delete(name)
                await self._rest(job, _IDLE_S, "The provider is told to delete it.")
            case policy.Reach(step, detail):
                await self._reach(job, step, detail=detail, node=node)
            case policy.Wait(seconds, detail):
                await self._rest(job, seconds, detail, node)
            case policy.GiveUp(error):
                await self._give_up(job, error)
            case policy.End():
                if job.error and machine.state == "absent" and job.step >= Step.REQUESTED:
                    # Somebody slower may still ask for it: what was deleted is not made any more.
                    await provider.delete(name)
                await self._end(job, machine)

    async def _request(self, job: Job, provider: Provider, *, again: str) -> None:
        if job.step < Step.REQUESTED:
            # Noted first: whoever finds the job here knows that the provider may have been asked.
            await self._reach(job, Step.REQUESTED)
            return
        await _of_registry(self._fleet.grant_weights(node_id=job.instance.id, model=job.instance.spec.model))
        token = await _of_registry(self._fleet.join_token(node_id=job.instance.id, org_id=job.instance.spec.org_id))
        if not await self._store.renew(job, lease_s=LEASE_S):
            return
        await provider.launch(name=job.instance.id, task=job.task, join_token=token)
        if job.step < Step.PROVISIONING:
            await self._reach(job, Step.PROVISIONING)
        elif await self._store.asked_again(job, detail=again, now=self._clock.now(), rest_s=_IDLE_S):
            # Its time goes on from when it was first asked for.
            self._metrics.asked_again.labels(job.instance.spec.provider).inc()
            self._log.warning("asked again", job_id=job.id, instance_id=job.instance.id, reason=again)

    async def _refused(self, job: Job, words: str, *, temporary: bool) -> None:
        error = policy.refused(job, words, temporary=temporary, now=job.read_at, limits=self._limits)
        if error is None:
            await self._rest(job, _RETRY_S, words)
        else:
            await self._give_up(job, error)

    async def _give_up(self, job: Job, error: str) -> None:
        self._log.warning("launch fails", job_id=job.id, reason=error)
        await self._store.give_up(job, error, now=self._clock.now())

    async def _reach(
        self, job: Job, step: Step, *, detail: str = "", task: str | None = None, node: NodeView | None = None
    ) -> None:
        if await self._store.reach(job, step, detail=detail, task=task, loaded=_loaded(node), now=self._clock.now()):
            self._metrics.step_seconds.labels(job.kind, job.step.name.lower()).observe(
                (job.read_at - job.step_at).total_seconds()
            )

    async def _rest(self, job: Job, seconds: float, detail: str, node: NodeView | None = None) -> None:
        await self._store.wait(job, detail=detail, loaded=_loaded(node), now=self._clock.now(), rest_s=seconds)

    async def _end(self, job: Job, machine: Machine) -> None:
        if await self._store.end(job, price_picodollars=machine.hourly_price_picodollars, now=self._clock.now()):
            outcome = "failed" if job.error else "succeeded"
            self._metrics.jobs.labels(job.kind, outcome).inc()
            self._log.info("job ended", job_id=job.id, kind=job.kind, outcome=outcome, instance_id=job.instance.id)

    @contextlib.asynccontextmanager
    async def _held(self, job: Job) -> AsyncIterator[None]:
        """Keeps the lease for as long as the block lasts. Once it is lost, the block is cancelled and left quietly."""
        working = asyncio.current_task()
        assert working is not None  # noqa: S101  # a coroutine runs in a task
        lost = False

        async def renew() -> None:
            nonlocal lost
            while True:
                await asyncio.sleep(_RENEW_S)
                with contextlib.suppress(CodedError):
                    if not await self._store.renew(job, lease_s=LEASE_S):
                        lost = True
                        working.cancel()
                        return

        renewing = asyncio.create_task(renew(), name="renew lease")
        try:
            yield
        except asyncio.CancelledError:
            if not lost or working.uncancel() > 0:
                raise
            self._log.warning("somebody else has the job", job_id=job.id)
        finally:
            renewing.cancel()


def _loaded(node: NodeView | None) -> Loaded | None:
    return None if node is None else Loaded(node.bytes_done, node.bytes_total)


async def _of_registry(answer: Awaitable[Answer]) -> Answer:
    """What the registry answers. What it refuses, or that it is away, is said like a provider's refusal."""
    try:
        return await answer
    except CodedError as error:
        raise ProviderError(f"The registry says: {error.public}", temporary=error.code in _PASSING) from None

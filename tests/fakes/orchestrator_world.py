"""Jobs over a real database, with a provider and a registry that do whatever hurts most."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.metrics import Metrics
from crosslogic_common.postgres import Pool, transaction
from crosslogic_orchestrator.domain import (
    ABSENT,
    Job,
    LogLine,
    LogSource,
    Machine,
    NodeStatus,
    NodeView,
    Spec,
    Step,
)
from crosslogic_orchestrator.ends_store import EndsStore
from crosslogic_orchestrator.jobs import launch_job
from crosslogic_orchestrator.metrics import OrchestratorMetrics
from crosslogic_orchestrator.policy import Limits
from crosslogic_orchestrator.service import OrchestratorService
from crosslogic_orchestrator.store import PostgresStore
from crosslogic_orchestrator.worker import Worker

SPEC = Spec(model="m", provider="cloud", region="r")
LIMITS = Limits(provision_s=100, load_s=50)
LANE = 2


@dataclass
class Clock:
    """One replica's, which may be wrong by any amount."""

    off: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.off

    def monotonic(self) -> float:
        return self.now().timestamp()


@dataclass
class Cloud:
    """A provider that fails as it is told. `hung`: how many calls it left hanging."""

    there: dict[str, Machine] = field(default_factory=dict)
    fails: Exception | None = None
    hangs: bool = False
    deleted: list[str] = field(default_factory=list)
    launched: list[str] = field(default_factory=list)
    hung: int = 0
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """What happens elsewhere while a machine is asked for."""

    async def _fail(self) -> None:
        if self.hangs:
            self.hung += 1
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails

    async def task_for(self, spec: Spec, name: str) -> str:
        return f"{name} for {spec.model}"

    async def launch(self, *, name: str, task: str, join_token: str) -> None:
        assert (task, join_token) != ("", "")
        await self._fail()
        if self.meanwhile is not None:
            await self.meanwhile()
        self.launched.append(name)
        self.there[name] = Machine(name, "running")

    async def find(self, name: str) -> Machine:
        return self.there.get(name, ABSENT)

    async def delete(self, name: str) -> None:
        self.deleted.append(name)
        await self._fail()
        self.there.pop(name, None)

    async def machines(self) -> list[Machine]:
        return list(self.there.values())


@dataclass
class Registry:
    """A registry that fails as it is told."""

    nodes: dict[str, NodeView] | None = field(default_factory=dict)
    fails: CodedError | None = None
    models: set[str] = field(default_factory=lambda: {"m"})
    drained: list[str] = field(default_factory=list)
    logs: dict[str, list[tuple[LogSource, str]]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    followed = True

    def say(
        self, name: str, status: NodeStatus, reason: str = "", running: int = 0, loaded: tuple[int, int] = (0, 0)
    ) -> None:
        assert self.nodes is not None
        dead_since = datetime.now(UTC) - timedelta(hours=1) if status == "dead" else None
        self.nodes[name] = NodeView(name, status, reason, running, *loaded, dead_since=dead_since)

    def node(self, node_id: str) -> NodeView | None:
        if self.nodes is None:
            raise CodedError(ErrorCode.UNAVAILABLE)
        return self.nodes.get(node_id)

    def _fail(self) -> None:
        if self.fails is not None:
            raise self.fails

    async def join_token(self, *, node_id: str, org_id: str) -> str:
        self._fail()
        return f"token of {node_id}{org_id}"

    async def grant_weights(self, *, node_id: str, model: str) -> None:
        self._fail()

    async def refusal_for_size(self, *, model: str, instance_type: str) -> str:
        return ""

    async def drain(self, node_id: str) -> None:
        self._fail()
        self.drained.append(node_id)

    async def log_lines(self, node_id: str, *, cursor: str) -> tuple[Sequence[LogLine], str]:
        self._fail()
        if node_id in self.gone:
            raise CodedError(ErrorCode.NOT_FOUND)
        lines = self.logs.get(node_id, [])
        now = datetime.now(UTC)
        return [LogLine(at=now, source=source, text=text) for source, text in lines[int(cursor or 0) :]], str(
            len(lines)
        )

    async def has_model(self, name: str) -> bool:
        self._fail()
        return name in self.models


class World:
    """One database; replicas with clocks of their own."""

    def __init__(self, pool: Pool, url: str) -> None:
        self.pool, self.store, self.ids = pool, PostgresStore(pool, dsn=url), Uuid7Source()
        self.cloud, self.other, self.registry = Cloud(), Cloud(), Registry()
        self.worker = self.replica()
        self.service = OrchestratorService(
            store=self.store,
            ends=EndsStore(pool),
            fleet=self.registry,
            providers=("cloud", "other"),
            clock=Clock(),
            ids=self.ids,
        )

    def replica(self, off: timedelta = timedelta()) -> Worker:
        return Worker(
            store=self.store,
            fleet=self.registry,
            providers={"cloud": self.cloud, "other": self.other},
            clock=Clock(off),
            limits=LIMITS,
            metrics=OrchestratorMetrics(Metrics()),
            lane=LANE,
        )

    async def launched(self, provider: str = "cloud") -> Job:
        return await self.store.add_launch(
            launch_job(replace(SPEC, provider=provider), ids=self.ids, now=datetime.now(UTC)),
            request_id=self.ids.next_text(),
        )

    async def work(self, times: int = 1) -> None:
        """Whatever rests is looked at again."""
        for _ in range(times):
            await self.do("UPDATE jobs SET wake_at = '-infinity'")
            await self.worker.work_once()

    async def waited(self, seconds: float) -> None:
        """Every job has been at its step for so much longer."""
        await self.do("UPDATE jobs SET step_at = step_at - make_interval(secs => %s)", seconds)

    async def do(self, statement: str, *values: object) -> None:
        async with transaction(self.pool) as connection:
            await connection.execute(statement, values)

    async def job(self, job: Job) -> Job:
        found = await self.store.job(job.id)
        assert found is not None
        return found

    async def at(self, job: Job, step: Step) -> None:
        """Works until the job is at the step."""
        for _ in range(12):
            if (await self.job(job)).step == step:
                return
            await self.work()
        raise AssertionError(f"{(await self.job(job)).step.name}, not {step.name}")

    async def event_kinds(self) -> list[str]:
        async with transaction(self.pool) as connection:
            cursor = await connection.execute("SELECT kind FROM events ORDER BY seq")
            return [row[0] for row in await cursor.fetchall()]

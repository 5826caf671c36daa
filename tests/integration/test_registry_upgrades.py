"""Model upgrades on a real database: two replicas that count and decide together, and one that dies under way."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from importlib.resources import files
from uuid import uuid4

import pytest

from crosslogic.registry.v1 import registry_pb2
from crosslogic.registry.v1 import upgrades_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Pool, migrate, open_pool
from crosslogic_registry.domain import Status
from crosslogic_registry.members import Member
from crosslogic_registry.store import PostgresStore
from crosslogic_registry.upgrades.service import Upgrades
from crosslogic_registry.upgrades.store import PostgresUpgrades
from tests.fakes.registry_store import FakeRegistryClock

MODEL = "llama"
RULES = pb.UpgradeRules(steps_percent=[50, 100], step_s=1, step_requests=10, lost_s=1)


class Nodes:
    """A replica's fleet of nodes that all serve the model."""

    def __init__(self) -> None:
        self.by_id: dict[str, Member] = {}
        self.drained: list[str] = []

    def add(self, node_id: str, version: str, *, org_id: str = "", status: Status = "active") -> None:
        facts = registry_pb2.NodeFacts(models=[MODEL], model_version=version)
        node = registry_pb2.Node(id=node_id, org_id=org_id, facts=facts, reachable=True)
        self.by_id[node_id] = Member(node, status, drain_asked=False, heard_at=0.0)

    def members(self) -> Iterable[Member]:
        return self.by_id.values()

    def known(self, node_id: str) -> Member | None:
        return self.by_id.get(node_id)

    async def drain(self, node_id: str) -> object:
        self.drained.append(node_id)
        self.by_id[node_id].drain_asked = True
        return None


class Replica:
    """A registry as far as upgrades need it."""

    def __init__(self, pool: Pool) -> None:
        self.nodes = Nodes()
        self.clock = FakeRegistryClock()
        for node_id, version in (("old-0", "v1"), ("old-1", "v1"), ("new-0", "v2"), ("new-1", "v2")):
            self.nodes.add(node_id, version)
        self.nodes.add("own", "v1", org_id="o")
        self.upgrades = Upgrades(store=PostgresUpgrades(pool), nodes=self.nodes, clock=self.clock, heartbeat_s=0.01)

    def saw(self, node_id: str, succeeded: int = 0, failed: int = 0) -> None:
        self.upgrades.observed(
            registry_pb2.NodeObservation(
                node_id=node_id,
                succeeded=succeeded,
                failed=failed,
                first_bytes=succeeded,
                first_byte_us_total=succeeded * 1_000,
            )
        )


@pytest.fixture
async def pool(pg_url: str) -> AsyncIterator[Pool]:
    await migrate(pg_url, schema="registry", migrations=files("crosslogic_registry.migrations"))
    async with open_pool(pg_url, schema="registry", max_size=4) as opened:
        # The database is the module's, the model each test's.
        async with opened.connection() as connection:
            await connection.execute("DELETE FROM model_upgrade_outcomes")
            await connection.execute("DELETE FROM model_upgrades")
            await connection.execute("DELETE FROM models")
        await PostgresStore(opened).add_model(registry_pb2.Model(name=MODEL, context_length=8))
        yield opened


def asked(**others: object) -> pb.CreateModelUpgradeRequest:
    request = pb.CreateModelUpgradeRequest(
        model=MODEL, to_version="v2", from_version="v1", rules=RULES, request_id=str(uuid4())
    )
    request.MergeFrom(pb.CreateModelUpgradeRequest(**others))  # type: ignore[arg-type]
    return request


async def shares(pool: Pool) -> list[tuple[str, int]]:
    [model] = await PostgresStore(pool).models()
    return [(share.version, share.per_mille) for share in model.version_shares]


async def age(pool: Pool, seconds: float = 60.0) -> None:
    """Time passes at the database."""
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE model_upgrades SET changed_at = changed_at - %s * interval '1 second'", (seconds,)
        )


async def test_two_replicas_count_together_and_whichever_is_left_finishes(pool: Pool) -> None:
    first, second = Replica(pool), Replica(pool)
    started = await first.upgrades.start(asked())
    await second.upgrades.look()
    assert await shares(pool) == [("v1", 1_000)]
    await age(pool)
    await second.upgrades.look()
    assert await shares(pool) == [("v1", 500), ("v2", 500)]
    for replica in (first, second):
        await replica.upgrades.look()
        replica.saw("new-0", 4)
        replica.saw("new-1", 1)
        replica.saw("old-0", 5)
        replica.saw("own", failed=9)
    await first.upgrades.look()
    _, seen = await first.upgrades.get(started.id)
    assert (seen.new.succeeded, seen.old.requests) == (5, 5), "what is each replica's own is not lost, nor told twice"
    await age(pool)
    await second.upgrades.look()
    assert await shares(pool) == [("v1", 0), ("v2", 1_000)]
    # The first dies; what it knew is in the database.
    await second.upgrades.look()
    second.saw("new-0", 10)
    await age(pool)
    for _ in range(6):
        await second.upgrades.look()
        await age(pool)
    found, _ = await second.upgrades.get(started.id)
    assert found.phase == "done"
    assert sorted(second.nodes.drained) == ["old-0", "old-1"], "not the nodes of one organisation"
    assert await shares(pool) == [("v2", 1_000)]
    with pytest.raises(CodedError) as refused:
        await second.upgrades.roll_back(started.id, "too late")
    assert refused.value.code is ErrorCode.CONFLICT


async def test_failures_seen_by_different_replicas_send_a_bad_version_back(pool: Pool) -> None:
    first, second = Replica(pool), Replica(pool)
    started = await first.upgrades.start(asked())
    for replica in (first, second):
        await replica.upgrades.look()
    await age(pool)
    await first.upgrades.look()
    assert await shares(pool) == [("v1", 500), ("v2", 500)]
    for replica in (first, second):
        # Neither has looked since the new version serves.
        replica.saw("new-0", failed=2)
    await first.upgrades.look()
    assert (await first.upgrades.get(started.id))[0].phase == "shifting"
    await second.upgrades.look()
    found, _ = await first.upgrades.get(started.id)
    assert (found.phase, found.reason.split(" ")[0]) == ("rolled_back", "4")
    assert await shares(pool) == [("v1", 1_000)]


async def test_a_version_without_nodes_goes_back_unless_nobody_serves_the_old_one(pool: Pool) -> None:
    replica = Replica(pool)
    started = await replica.upgrades.start(asked())
    await age(pool)
    await replica.upgrades.look()
    for node_id in ("new-0", "new-1", "old-0", "old-1"):
        replica.nodes.by_id[node_id].status = "dead"
    await replica.upgrades.look()
    replica.clock.pass_s(5.0)
    await replica.upgrades.look()
    assert (await replica.upgrades.get(started.id))[0].phase == "shifting", "there is nothing to go back to"
    replica.nodes.by_id["old-0"].status = "active"
    await replica.upgrades.look()
    assert (await replica.upgrades.get(started.id))[0].phase == "rolled_back"


async def test_one_upgrade_of_a_model_is_under_way_and_a_repeated_start_is_the_same(pool: Pool) -> None:
    replica = Replica(pool)
    request = asked()
    started = await replica.upgrades.start(request)
    assert (await replica.upgrades.start(request)).id == started.id
    for refused, code in (
        (asked(), ErrorCode.CONFLICT),
        (asked(model="other"), ErrorCode.NOT_FOUND),
        (asked(model="\0"), ErrorCode.NOT_FOUND),
        (asked(to_version="\n"), ErrorCode.INVALID_ARGUMENT),
        (asked(request_id="me"), ErrorCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(CodedError) as error:
            await replica.upgrades.start(refused)
        assert error.value.code is code
    back, _ = await replica.upgrades.roll_back(started.id, "not\nyet")
    assert back.reason == "an operator asked for it: not yet"
    assert [each.id for each, _ in await replica.upgrades.page(MODEL, before=0, limit=10)] == [started.id]
    with contextlib.suppress(CodedError):
        await replica.upgrades.start(asked(from_version="v0"))
    assert await shares(pool) == [("v1", 1_000)]

"""Which version of a model each environment serves, who may read it, and what must be true before it goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import grpc
import grpc.aio
import pytest

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic.registry.v1 import model_store_pb2_grpc as rpc
from crosslogic.registry.v1 import registry_pb2
from crosslogic_common.clock import SystemClock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import migrate, open_pool
from crosslogic_common.settings import Secret
from crosslogic_common.tls import Channels
from crosslogic_model_store.facts import ModelFacts
from crosslogic_model_store.fit import least_bytes
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.manifest import Manifest
from crosslogic_registry.members import Member
from crosslogic_registry.model_store import policy
from crosslogic_registry.model_store.domain import Environment, Smoke, Terms
from crosslogic_registry.model_store.service import ModelStore
from crosslogic_registry.model_store.store import PostgresModelStore
from crosslogic_registry.store import PostgresStore
from tests.fakes.registry_suite import RegistrySuite
from tests.fakes.small_models import TINY_CONFIG, make_model

BUCKET: dict[str, Any] = {
    "s3_endpoint": "http://storage.example:9000",
    "s3_region": "us-east-1",
    "r2_access_key_id": Secret("AKIA"),
    "r2_secret_access_key": Secret("account-secret"),
    "r2_bucket_name": "weights",
}


@dataclass
class Nodes:
    """The fleet, by hand."""

    found: list[Member] = field(default_factory=list)

    def members(self) -> list[Member]:
        return self.found

    def serve(self, model: str, version: str) -> None:
        node = registry_pb2.Node(id=str(uuid4()), reachable=True)
        node.facts.CopyFrom(registry_pb2.NodeFacts(address="n:1", models=[model], model_version=version))
        node.last_heartbeat_time.GetCurrentTime()
        self.found.append(Member(node, "active", False, 0.0))


@dataclass
class Tries:
    """Generations on nodes, by hand."""

    passed: bool = True
    asked: list[str] = field(default_factory=list)
    held: asyncio.Event | None = None
    together: asyncio.Barrier | None = None

    async def generate(self, node: registry_pb2.Node, model: str) -> Smoke:
        self.asked.append(model)
        if self.held is not None:
            await self.held.wait()
        if self.together is not None:
            await self.together.wait()
        return Smoke(passed=self.passed, detail="4 tokens" if self.passed else "no answer")


@dataclass
class World:
    models: ModelStore
    catalogue: PostgresStore
    nodes: Nodes
    tries: Tries

    async def offered(self) -> set[str]:
        return {model.name for model in await self.catalogue.models()}


@pytest.fixture
async def world(pg_url: str) -> AsyncIterator[World]:
    await migrate(pg_url, schema="registry", migrations=files("crosslogic_registry.migrations"))
    async with open_pool(pg_url, schema="registry", max_size=4) as pool:
        nodes, tries = Nodes(), Tries()
        models = ModelStore(
            store=PostgresModelStore(pool), nodes=nodes, smoke=tries, clock=SystemClock(), place=None, url_valid_s=60
        )
        yield World(models, PostgresStore(pool), nodes, tries)


def manifest_of(folder: Path, name: str, *, seed: int = 1, licence: str = "") -> Manifest:
    return read_model(make_model(folder / f"{name}-{seed}", seed=seed), name, licence=licence).manifest


def entry(name: str) -> registry_pb2.Model:
    return registry_pb2.Model(name=name, prompt_price_picodollars=5, completion_price_picodollars=7)


@pytest.mark.parametrize(("served", "generates"), [(True, True), (False, True), (True, False)])
async def test_an_external_endpoint_reaches_production_once_it_serves_and_generates(
    world: World, served: bool, generates: bool
) -> None:
    name, endpoint = f"m{uuid4().hex}", "https://api.example.com/v1"
    model = entry(name)
    model.context_length = 8192
    await world.models.register(model, "staging", version="", endpoint=endpoint)
    if served:
        world.nodes.serve(f"{name}@staging", "")
    world.tries.passed = generates
    _, gates = await world.models.promote(name, "staging", "production", dry_run=True)
    assert [(gate.name, gate.passed) for gate in gates] == [("serving", served), ("smoke", served and generates)]
    if not (served and generates):
        with pytest.raises(CodedError, match="Not promoted") as error:
            await world.models.promote(name, "staging", "production", dry_run=False)
        assert error.value.code == ErrorCode.CONFLICT
        return
    promoted, _ = await world.models.promote(name, "staging", "production", dry_run=False)
    assert promoted is not None
    assert (promoted.name, promoted.endpoint, promoted.version) == (name, endpoint, "")
    assert name in await world.offered()


async def test_a_version_goes_from_staging_to_production_and_back(world: World, tmp_path: Path) -> None:
    name = f"m{uuid4().hex}"
    old, new = manifest_of(tmp_path, name), manifest_of(tmp_path, name, seed=2)
    for manifest in (old, new, new):
        await world.models.add_version(manifest.to_json())
    assert [v.manifest.revision for v in await world.models.versions(name, before=0, limit=9)] == [
        new.revision,
        old.revision,
    ]
    await world.models.register(entry(name), "production", version=old.revision, endpoint="")
    staged = await world.models.register(entry(name), "staging", version=new.revision, endpoint="")
    assert staged.name == f"{name}@staging"
    assert {name, staged.name} <= await world.offered()

    world.nodes.serve(staged.name, new.revision)
    promoted, gates = await world.models.promote(name, "staging", "production", dry_run=False)
    assert all(gate.passed for gate in gates)
    assert promoted is not None
    assert promoted.version == new.revision
    assert world.tries.asked == [staged.name]
    stored = await world.models._store.entry(name)
    assert stored is not None
    assert (stored.prompt_price_picodollars, stored.context_length) == (5, 2048)

    assert (await world.models.roll_back(name)).version == old.revision
    assert (await world.models.roll_back(name)).version == new.revision


@pytest.mark.parametrize(
    ("licence", "served", "generates", "gate"),
    [("", True, True, "licence"), ("mit", False, True, "weights_verified"), ("mit", True, False, "smoke")],
)
async def test_a_version_that_is_not_proven_does_not_reach_production(
    world: World, tmp_path: Path, licence: str, served: bool, generates: bool, gate: str
) -> None:
    name = f"m{uuid4().hex}"
    folder = make_model(tmp_path / "m")
    (folder / "README.md").unlink()
    manifest = read_model(folder, name, licence=licence).manifest
    await world.models.add_version(manifest.to_json())
    await world.models.register(entry(name), "staging", version=manifest.revision, endpoint="")
    world.nodes.serve(f"{name}@staging", manifest.revision if served else "another")
    world.tries.passed = generates
    _, gates = await world.models.promote(name, "staging", "production", dry_run=True)
    assert gate in {each.name for each in gates if not each.passed}
    with pytest.raises(CodedError, match=gate) as error:
        await world.models.promote(name, "staging", "production", dry_run=False)
    assert error.value.code == ErrorCode.CONFLICT
    assert name not in await world.offered()


async def test_a_model_that_is_disabled_is_offered_to_nobody_until_it_is_enabled(world: World) -> None:
    name = f"m{uuid4().hex}"
    model = entry(name)
    model.context_length = 100
    await world.models.register(model, "production", version="", endpoint="https://other.example/v1")
    assert name in await world.offered()
    assert not (await world.models.enable(name, enabled=False)).enabled
    assert name not in await world.offered()
    assert (await world.models.enable(name, enabled=True)).endpoint == "https://other.example/v1"
    assert name in await world.offered()
    await world.models.deregister(name)
    assert name not in await world.offered()
    with pytest.raises(CodedError):
        await world.models.deregister(name)
    with pytest.raises(CodedError):
        await world.models.enable(name, enabled=True)
    await world.models.register(model, "production", version="", endpoint="")
    assert name in await world.offered()


async def test_what_an_operator_disabled_stays_disabled_when_a_new_version_comes(world: World, tmp_path: Path) -> None:
    name = f"m{uuid4().hex}"
    old, new = manifest_of(tmp_path, name), manifest_of(tmp_path, name, seed=2)
    for manifest in (old, new):
        await world.models.add_version(manifest.to_json())
    await world.models.register(entry(name), "production", version=old.revision, endpoint="")
    await world.models.enable(name, enabled=False)
    staged = await world.models.register(entry(name), "staging", version=new.revision, endpoint="")
    world.nodes.serve(staged.name, new.revision)
    promoted, _ = await world.models.promote(name, "staging", "production", dry_run=False)
    assert promoted is not None
    assert (promoted.version, promoted.enabled) == (new.revision, False)
    assert name not in await world.offered()
    assert (await world.models.enable(name, enabled=True)).version == new.revision


async def test_clients_are_told_the_context_of_the_version_that_is_served_through_promotion_and_back(
    world: World, tmp_path: Path
) -> None:
    name = f"m{uuid4().hex}"
    long = manifest_of(tmp_path, name)
    folder = make_model(tmp_path / "short", seed=2)
    (folder / "config.json").write_text(json.dumps({**TINY_CONFIG, "max_position_embeddings": 512}))
    short = read_model(folder, name).manifest
    for manifest in (long, short):
        await world.models.add_version(manifest.to_json())
    await world.models.register(entry(name), "production", version=long.revision, endpoint="")
    staged = await world.models.register(entry(name), "staging", version=short.revision, endpoint="")
    world.nodes.serve(staged.name, short.revision)

    async def told() -> tuple[int, int]:
        found = await world.models._store.entry(name)
        assert found is not None
        return found.context_length, found.vram_required_bytes

    assert await told() == (2048, least_bytes(long.facts))
    await world.models.promote(name, "staging", "production", dry_run=False)
    assert await told() == (512, least_bytes(short.facts))
    await world.models.roll_back(name)
    assert await told() == (2048, least_bytes(long.facts))
    await world.models.roll_back(name)
    assert await told() == (512, least_bytes(short.facts))


@dataclass
class Staged:
    """A model with one version in production and another that is proven in staging."""

    name: str
    old: str
    new: str


async def staged(world: World, folder: Path) -> Staged:
    name = f"m{uuid4().hex}"
    old, new = manifest_of(folder, name), manifest_of(folder, name, seed=2)
    for manifest in (old, new):
        await world.models.add_version(manifest.to_json())
    await world.models.register(entry(name), "production", version=old.revision, endpoint="")
    found = await world.models.register(entry(name), "staging", version=new.revision, endpoint="")
    world.nodes.serve(found.name, new.revision)
    return Staged(name, old.revision, new.revision)


async def version_of(world: World, name: str) -> str | None:
    found = await world.models._store.registration(name)
    return found.version if found else None


async def test_two_promotions_at_once_leave_one_version_and_the_other_is_told(world: World, tmp_path: Path) -> None:
    model = await staged(world, tmp_path)
    other = manifest_of(tmp_path, model.name, seed=3)
    await world.models.add_version(other.to_json())
    found = await world.models.register(entry(model.name), "development", version=other.revision, endpoint="")
    world.nodes.serve(found.name, other.revision)
    world.tries.together = asyncio.Barrier(2)
    sources: list[Environment] = ["development", "staging"]
    answers = await asyncio.gather(
        *(world.models.promote(model.name, each, "production", dry_run=False) for each in sources),
        return_exceptions=True,
    )
    refused = [each for each in answers if isinstance(each, BaseException)]
    assert len(refused) == 1
    assert isinstance(refused[0], CodedError)
    assert refused[0].code == ErrorCode.CONFLICT
    assert "changed while the gates were tried" in refused[0].public
    [promoted] = [each[0] for each in answers if not isinstance(each, BaseException)]
    assert promoted is not None
    assert await version_of(world, model.name) == promoted.version
    assert (await world.models.roll_back(model.name)).version == model.old


@pytest.mark.parametrize("meanwhile", ["promoted", "dearer", "restaged", "taken out", "staging taken out"])
async def test_a_promotion_of_a_registry_that_was_stopped_does_not_undo_what_was_done_meanwhile(
    world: World, tmp_path: Path, meanwhile: str
) -> None:
    model = await staged(world, tmp_path)
    world.tries.held = asyncio.Event()
    late = asyncio.create_task(world.models.promote(model.name, "staging", "production", dry_run=False))
    while not world.tries.asked:
        await asyncio.sleep(0.005)
    match meanwhile:
        case "promoted":
            await world.models.register(entry(model.name), "production", version=model.new, endpoint="")
            await world.models.roll_back(model.name)
        case "dearer":
            dearer = entry(model.name)
            dearer.prompt_price_picodollars = 11
            await world.models.register(dearer, "production", version=model.old, endpoint="")
        case "restaged":
            await world.models.register(entry(model.name), "staging", version=model.old, endpoint="")
        case "taken out":
            await world.models.deregister(model.name)
        case _:
            await world.models.deregister(f"{model.name}@staging")
    before, told = await version_of(world, model.name), await world.models._store.entry(model.name)
    world.tries.held.set()
    with pytest.raises(CodedError, match="Not promoted") as refused:
        await late
    assert refused.value.code == ErrorCode.CONFLICT
    assert (await version_of(world, model.name), await world.models._store.entry(model.name)) == (before, told)


async def test_a_promotion_that_is_asked_again_while_the_first_is_under_way_has_its_answer(
    world: World, tmp_path: Path
) -> None:
    model, one = await staged(world, tmp_path), str(uuid4())
    world.tries.together = asyncio.Barrier(2)
    (first, _), (second, _) = await asyncio.gather(
        *(world.models.promote(model.name, "staging", "production", dry_run=False, request_id=one) for _ in range(2))
    )
    assert first == second
    assert first is not None
    assert first.version == model.new
    assert (await world.models.roll_back(model.name)).version == model.old


async def test_what_is_asked_again_because_its_answer_was_lost_is_done_once(world: World, tmp_path: Path) -> None:
    model = await staged(world, tmp_path)
    one, other = str(uuid4()), str(uuid4())
    first, _ = await world.models.promote(model.name, "staging", "production", dry_run=False, request_id=one)
    back = await world.models.roll_back(model.name, request_id=other)
    assert back.version == model.old
    # Twice would bring back the version that somebody went back from.
    assert await world.models.roll_back(model.name, request_id=other.upper()) == back
    world.tries.passed = False
    again, _ = await world.models.promote(model.name, "staging", "production", dry_run=False, request_id=one)
    assert again == back, "as it is now"
    assert first is not None
    assert (first.version, await version_of(world, model.name)) == (model.new, model.old)
    another = await staged(world, tmp_path)
    for used in (one, other):
        with pytest.raises(CodedError, match="another model"):
            await world.models.roll_back(another.name, request_id=used)
        with pytest.raises(CodedError, match="another model"):
            await world.models.promote(another.name, "staging", "production", dry_run=False, request_id=used)
    with pytest.raises(CodedError, match="UUID"):
        await world.models.roll_back(model.name, request_id="once")


@pytest.mark.parametrize(
    ("told", "old", "new", "then"),
    [
        (2048, 2048, 512, 512),  # the version's own
        (1000, 2048, 512, 512),  # more than it takes
        (1000, 2048, 4096, 1000),  # an operator's word
        (2048, 2048, 0, 2048),  # it does not tell
        (0, 0, 512, 512),
    ],
)
def test_a_context_that_an_operator_chose_stays_where_the_version_takes_it(
    told: int, old: int, new: int, then: int
) -> None:
    terms = policy.terms_after(Terms(told, 7), ModelFacts(context_length=old), ModelFacts(context_length=new))
    assert terms == Terms(then, 7)


async def test_what_cannot_be_is_not_registered(world: World) -> None:
    for model, version, endpoint in (
        ("m@staging", "", ""),
        ("m", "0" * 32, ""),
        ("m", "../x", ""),
        ("m", "", "ftp://x"),
        ("m", "", "https://key@x/v1"),
    ):
        asked = entry(model)
        asked.context_length = 100
        with pytest.raises(CodedError):
            await world.models.register(asked, "production", version=version, endpoint=endpoint)


def test_names_say_the_environment() -> None:
    assert policy.client_name("team/m", "production") == "team/m"
    assert policy.parts_of("team/m@staging") == ("team/m", "staging")
    assert policy.parts_of("m@other") == ("m@other", "production")


async def test_a_model_that_does_not_fit_is_told_with_the_arithmetic(world: World, tmp_path: Path) -> None:
    name = f"m{uuid4().hex}"
    manifest = manifest_of(tmp_path, name)
    await world.models.add_version(manifest.to_json())
    await world.models.register(entry(name), "production", version=manifest.revision, endpoint="")
    found = await world.models.check_fit(name, "H100:1", context_tokens=0, concurrency=0)
    assert not isinstance(found, str)
    assert found.fits
    found = await world.models.check_fit(name, "g4dn.xlarge", context_tokens=2048, concurrency=1_000_000)
    assert not isinstance(found, str)
    assert not found.fits
    assert "KV cache" in found.arithmetic[1]
    assert isinstance(await world.models.check_fit(name, "unknown.type", context_tokens=0, concurrency=1), str)
    assert isinstance(await world.models.check_fit("nothing", "H100:1", context_tokens=0, concurrency=1), str)


def stub(suite: RegistrySuite, caller: str) -> Any:
    channels = suite._channels.setdefault(caller, Channels(suite.ca.service(caller)))
    return rpc.ModelStoreServiceStub(channels.service("registry", f"127.0.0.1:{suite.ports[0]}"))


async def test_a_node_reads_what_it_was_granted_and_nothing_else(tmp_path: Path, pg_url: str) -> None:
    suite = RegistrySuite(tmp_path, pg_url=pg_url)
    async with suite.running(**BUCKET):
        mine, other = manifest_of(tmp_path, "mine"), manifest_of(tmp_path, "other", seed=2)
        for manifest in (mine, other):
            await stub(suite, "gateway").AddModelVersion(pb.AddModelVersionRequest(manifest=manifest.to_json()))
        node, stranger = await suite.join(), await suite.join()
        node_stub: Any = rpc.ModelStoreServiceStub(node.channels.service("registry", node._target))
        with pytest.raises(grpc.aio.AioRpcError) as nothing:
            await node_stub.GetWeights(pb.GetWeightsRequest())
        assert nothing.value.code() == grpc.StatusCode.NOT_FOUND

        granted = await stub(suite, "orchestrator").GrantWeights(
            pb.GrantWeightsRequest(node_id=node.id, name="mine", version=mine.revision)
        )
        assert granted.version == mine.revision
        answer = await node_stub.GetWeights(pb.GetWeightsRequest())
        assert answer.manifest == mine.to_json()
        paths = {urlsplit(each.url).path for each in answer.objects}
        assert paths == {f"/weights/models/mine/blobs/{file.sha256}" for file in mine.files}
        assert b"account-secret" not in answer.SerializeToString()

        strange_stub: Any = rpc.ModelStoreServiceStub(stranger.channels.service("registry", stranger._target))
        for caller, method, request in (
            (strange_stub, "GetWeights", pb.GetWeightsRequest()),
            (stub(suite, "gateway"), "GetWeights", pb.GetWeightsRequest()),
            (node_stub, "GrantWeights", pb.GrantWeightsRequest(node_id=node.id, name="other", version=other.revision)),
            (node_stub, "PromoteModel", pb.PromoteModelRequest(model="mine")),
            (stub(suite, "scheduler"), "RegisterModel", pb.RegisterModelRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await getattr(caller, method)(request)
            assert refused.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)

"""What every store of the registry must do. Subclasses give the fixture `store`."""

import asyncio
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Protocol, cast
from uuid import uuid4

import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_registry.domain import Status, StatusChange, StoredNode
from crosslogic_registry.ports import FleetStore, ModelStore, TokenStore

IDS = Uuid7Source()


class WholeStore(FleetStore, TokenStore, ModelStore, Protocol):
    """All that the registry keeps."""


def new_token() -> bytes:
    return hashlib.sha256(secrets.token_bytes(16)).digest()


def new_key() -> bytes:
    """The SHA-256 of a node's key."""
    return secrets.token_bytes(32)


def now() -> datetime:
    return datetime.now(UTC)


async def join(store: WholeStore, org_id: str = "") -> StoredNode:
    token = new_token()
    await store.add_join_token(token, org_id, now() + timedelta(minutes=1))
    return await use(store, token)


async def use(store: WholeStore, token: bytes, *, key: bytes | None = None, at: datetime | None = None) -> StoredNode:
    node_id, key = str(IDS.next()), key or new_key()
    return await store.consume_join_token(token, node_id, at or now(), key_sha256=key, origin="here")


def change(node: StoredNode, status: Status, reason: str = "so", at: datetime | None = None) -> StatusChange:
    return StatusChange(node_id=node.id, status=status, reason=reason, at=at or now())


async def read(store: WholeStore, node: StoredNode) -> StoredNode:
    [found] = await store.nodes_by_id([node.id])
    return found


class RegistryStoreSuite:
    """The suite."""

    async def test_a_node_that_joined_is_there_after_a_restart_with_the_org_of_its_token(
        self, store: WholeStore
    ) -> None:
        org_id = str(uuid4())
        node = await join(store, org_id)
        assert node.org_id == org_id
        assert node.status == "registering"
        assert await read(store, node) == node
        assert node in await store.nodes(dead_within_s=60)

    async def test_a_token_lets_one_machine_in_however_many_use_it_at_once(self, store: WholeStore) -> None:
        token = new_token()
        await store.add_join_token(token, "", now() + timedelta(minutes=1))
        outcomes = await asyncio.gather(*(use(store, token) for _ in range(20)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, CodedError)]
        assert len(refused) == 19
        assert {error.code for error in refused} == {ErrorCode.JOIN_TOKEN_INVALID}

    async def test_a_token_that_ended_or_never_was_lets_nobody_in_and_both_look_alike(self, store: WholeStore) -> None:
        ended = new_token()
        await store.add_join_token(ended, "", now() - timedelta(seconds=1))
        said = []
        for token in (ended, new_token()):
            with pytest.raises(CodedError) as refused:
                await use(store, token)
            said.append((refused.value.code, refused.value.public))
        assert said[0] == said[1]
        assert said[0][0] == ErrorCode.JOIN_TOKEN_INVALID

    async def test_a_token_that_names_its_node_makes_that_node_once(self, store: WholeStore) -> None:
        node_id = str(IDS.next())
        first, second = new_token(), new_token()
        for token in (first, second):
            await store.add_join_token(token, "", now() + timedelta(minutes=1), node_id=node_id)
        key = new_key()
        assert (await use(store, first, key=key)).id == node_id
        with pytest.raises(CodedError) as refused:
            await use(store, second, key=key)
        assert refused.value.code == ErrorCode.JOIN_TOKEN_INVALID

    @pytest.mark.parametrize("named", [True, False])
    async def test_a_node_whose_answer_was_lost_finds_itself_again_by_its_key(
        self, store: WholeStore, named: bool
    ) -> None:
        token, key, ends = new_token(), new_key(), now() + timedelta(minutes=1)
        await store.add_join_token(token, "", ends, node_id=str(IDS.next()) if named else "")
        outcomes = await asyncio.gather(*(use(store, token, key=key) for _ in range(5)))
        assert outcomes == [outcomes[0]] * 5
        node = outcomes[0]
        await store.save([change(node, "active")], {}, origin="here")
        assert await use(store, token, key=key) == await read(store, node)
        assert len(await store.events(node.id, before=0, limit=10)) == 2

    async def test_the_key_that_used_a_token_is_let_in_no_longer_than_the_token_lasts(self, store: WholeStore) -> None:
        token, key, ends = new_token(), new_key(), now() + timedelta(minutes=1)
        await store.add_join_token(token, "", ends)
        await use(store, token, key=key)
        for other, at in ((new_key(), now()), (key, ends)):
            with pytest.raises(CodedError) as refused:
                await use(store, token, key=other, at=at)
            assert refused.value.code == ErrorCode.JOIN_TOKEN_INVALID

    async def test_changes_and_facts_are_kept_with_their_reasons(self, store: WholeStore) -> None:
        node = await join(store)
        facts = pb.NodeFacts(address="10.0.0.1:9000", region="us-east", models=["a", "b"], max_tokens_per_sec=12.5)
        at = now()
        await store.save(
            [change(node, "warming"), change(node, "active", "measured", at)], {node.id: facts}, origin="here"
        )
        found = await read(store, node)
        assert (found.status, found.status_reason, found.changed_at) == ("active", "measured", at)
        assert found.facts == facts

    async def test_a_replica_that_is_late_with_the_same_change_does_not_replace_its_reason(
        self, store: WholeStore
    ) -> None:
        node = await join(store)
        await store.save([change(node, "dead", "first")], {}, origin="here")
        await store.save([change(node, "dead", "second")], {}, origin="there")
        assert (await read(store, node)).status_reason == "first"

    async def test_a_change_of_an_unknown_node_does_not_hold_up_the_others(self, store: WholeStore) -> None:
        node = await join(store)
        unknown = StatusChange(node_id=str(uuid4()), status="dead", reason="so", at=now())
        await store.save([unknown, change(node, "active")], {unknown.node_id: pb.NodeFacts()}, origin="here")
        assert (await read(store, node)).status == "active"

    async def test_the_long_dead_are_not_part_of_the_fleet_but_can_be_asked_for(self, store: WholeStore) -> None:
        node = await join(store)
        await store.save([change(node, "dead", at=now() - timedelta(hours=2))], {}, origin="here")
        assert node.id not in {found.id for found in await store.nodes(dead_within_s=3600)}
        assert node.id in {found.id for found in await store.nodes(dead_within_s=3 * 3600)}
        assert (await read(store, node)).status == "dead"

    async def test_an_order_to_drain_outlives_the_registry(self, store: WholeStore) -> None:
        node = await join(store)
        assert await store.ask_drain(node.id, drain=True, origin="here")
        assert (await read(store, node)).drain_asked
        assert await store.ask_drain(node.id, drain=False, origin="here")
        assert not (await read(store, node)).drain_asked
        assert not await store.ask_drain(str(uuid4()), drain=True, origin="here")

    async def test_a_nodes_life_can_be_read_back_page_by_page_newest_first(self, store: WholeStore) -> None:
        node, other = await join(store), await join(store)
        for status, reason in (
            ("warming", "loads"),
            ("active", "measured"),
            ("draining", "spot notice"),
            ("dead", "x"),
        ):
            await store.save([change(node, cast("Status", status), reason), change(other, "dead")], {}, origin="here")
        first = await store.events(node.id, before=0, limit=3)
        assert [(event.status, event.reason) for event in first] == [
            ("dead", "x"),
            ("draining", "spot notice"),
            ("active", "measured"),
        ]
        rest = await store.events(node.id, before=first[-1].number, limit=10)
        assert [event.status for event in rest] == ["warming", "registering"]
        assert await store.events(node.id, before=rest[-1].number, limit=10) == []

    async def test_nodes_come_oldest_first(self, store: WholeStore) -> None:
        made = [(await join(store)).id for _ in range(5)]
        known = [node.id for node in await store.nodes(dead_within_s=60)]
        assert [node_id for node_id in known if node_id in made] == made

    async def test_a_model_is_read_back_whole_and_its_name_is_taken(self, store: WholeStore) -> None:
        model = pb.Model(
            name=f"m-{uuid4()}",
            family="llama",
            context_length=8192,
            vram_required_bytes=2**40,
            prompt_price_picodollars=10**12,
            completion_price_picodollars=1,
            regions=["us-east", "eu-west"],
            deployments=[pb.Deployment(region="us-east", strategy=pb.PICK_STRATEGY_PREFIX_AFFINITY), pb.Deployment()],
        )
        stored = await store.add_model(model)
        assert stored.HasField("create_time")
        [found] = await store.models(after=model.name[:-1], limit=1)
        assert found == stored
        found.ClearField("create_time")
        assert found == model
        with pytest.raises(CodedError) as refused:
            await store.add_model(model)
        assert refused.value.code == ErrorCode.ALREADY_EXISTS

    async def test_how_a_model_is_served_is_replaced_as_a_whole(self, store: WholeStore) -> None:
        name = f"m-{uuid4()}"
        was = [pb.Deployment(region="us-east", strategy=pb.PICK_STRATEGY_ROUND_ROBIN)]
        await store.add_model(pb.Model(name=name, family="f", context_length=1, deployments=was))
        new = [pb.Deployment(strategy=pb.PICK_STRATEGY_LEAST_LATENCY)]
        assert list((await store.replace_deployments(name, new)).deployments) == new
        [found] = await store.models(after=name[:-1], limit=1)
        assert list(found.deployments) == new
        assert list((await store.replace_deployments(name, [])).deployments) == []
        with pytest.raises(CodedError) as refused:
            await store.replace_deployments(f"{name}-unknown", new)
        assert refused.value.code == ErrorCode.NOT_FOUND

    async def test_models_come_by_name_in_pages_whatever_the_database_sorts_by(self, store: WholeStore) -> None:
        prefix = f"z{uuid4()}"
        names = sorted(f"{prefix}{end}" for end in ("-a", "-B", "_c", ".d", "é", "E"))
        for name in reversed(names):
            await store.add_model(pb.Model(name=name, family="f", context_length=1))
        found: list[str] = []
        after = prefix
        while page := await store.models(after, 2):
            found += [model.name for model in page]
            after = page[-1].name
        assert found == names

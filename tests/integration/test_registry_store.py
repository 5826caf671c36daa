"""The registry's store on PostgreSQL does what the suite says, and what only a database can do."""

from collections.abc import AsyncIterator
from datetime import timedelta
from importlib.resources import files
from uuid import uuid4

import psycopg
import pytest

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import LEAST_ID
from crosslogic_common.postgres import migrate, open_pool
from crosslogic_registry.lives import PostgresLives
from crosslogic_registry.store import NODES_CHANNEL, PostgresStore
from tests.contract.registry_store_suite import RegistryStoreSuite, WholeStore, change, join, new_token, now
from tests.fakes.postgres_notices import notices


@pytest.fixture
async def store(pg_url: str) -> AsyncIterator[WholeStore]:
    await migrate(pg_url, schema="registry", migrations=files("crosslogic_registry.migrations"))
    async with open_pool(pg_url, schema="registry", max_size=8) as pool:
        yield PostgresStore(pool)


class TestPostgresRegistryStore(RegistryStoreSuite):
    pass


async def test_every_step_of_a_nodes_life_is_on_record_with_its_reason(pg_url: str, store: WholeStore) -> None:
    node = await join(store)
    await store.save([change(node, "warming", "loading"), change(node, "active", "measured")], {}, origin="here")
    await store.save([change(node, "dead", "silent")], {}, origin="here")
    async with await psycopg.AsyncConnection.connect(pg_url) as connection:
        cursor = await connection.execute(
            "SELECT status, reason FROM registry.node_events WHERE node_id = %s ORDER BY id", (node.id,)
        )
        assert await cursor.fetchall() == [
            ("registering", "joined"),
            ("warming", "loading"),
            ("active", "measured"),
            ("dead", "silent"),
        ]


async def test_what_a_machine_costs_can_be_reckoned_of_nodes_that_are_long_gone(pg_url: str, store: WholeStore) -> None:
    gone, there = await join(store), await join(store)
    told = {node.id: pb.NodeFacts(region="us-east", hourly_price_picodollars=7) for node in (gone, there)}
    await store.save([change(gone, "active", "measured"), change(there, "active", "measured")], told, origin="here")
    await store.save([change(gone, "dead", "silent")], {}, origin="here")
    async with open_pool(pg_url, schema="registry", max_size=2) as pool:
        lives = PostgresLives(pool)
        mine = [node for node in await lives.page(after=LEAST_ID, since=None, limit=1_000) if node.node_id in told]
        assert {node.node_id: [life.ends is None for life in node.lives] for node in mine} == {
            gone.id: [False],
            there.id: [True],
        }
        assert all(node.facts == told[node.node_id] for node in mine)
        later = await lives.page(after=LEAST_ID, since=now() + timedelta(minutes=1), limit=1_000)
        assert gone.id not in {node.node_id for node in later}
        assert there.id in {node.node_id for node in later}


async def test_a_thousand_changes_reach_the_other_replicas_in_notices_that_fit(pg_url: str, store: WholeStore) -> None:
    nodes = [await join(store) for _ in range(250)]
    async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as listener:
        await listener.execute(f"LISTEN {NODES_CHANNEL}".encode())
        await store.save([change(node, "active") for node in nodes], {nodes[0].id: pb.NodeFacts()}, origin="me")
        told = await notices(listener, channel=NODES_CHANNEL, url=pg_url)
    assert {payload.partition(":")[0] for payload in told} == {"me"}
    named = [node_id for payload in told for node_id in payload.partition(":")[2].split(",")]
    assert sorted(named) == sorted(node.id for node in nodes)


async def test_a_stolen_database_holds_no_token(pg_url: str, store: WholeStore) -> None:
    token = new_token()
    await store.add_join_token(token, "", now() + timedelta(minutes=1))
    async with await psycopg.AsyncConnection.connect(pg_url) as connection:
        cursor = await connection.execute(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_schema = 'registry' AND table_name = 'join_tokens'"
        )
        assert {row[0] for row in await cursor.fetchall()} == {
            "token_sha256",
            "node_id",
            "org_id",
            "expires_at",
            "used_at",
            "used_by_key_sha256",
            "created_at",
        }


async def test_a_model_of_another_name_is_told_to_every_replica(pg_url: str, store: WholeStore) -> None:
    async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as listener:
        await listener.execute(b"LISTEN registry_catalogue")
        await store.add_model(pb.Model(name=str(uuid4()), family="f", context_length=1))
        assert len(await notices(listener, channel="registry_catalogue", url=pg_url)) == 1


async def test_a_database_that_is_away_is_said_to_be_unavailable(pg_url: str) -> None:
    address = pg_url.rpartition("@")[0] + "@127.0.0.1:1/none" if "@" in pg_url else "postgresql://127.0.0.1:1/none"
    async with open_pool(address, schema="registry", max_size=2) as pool:
        pool.timeout = 0.3
        with pytest.raises(CodedError) as raised:
            await PostgresStore(pool).nodes(dead_within_s=1)
    assert raised.value.code == ErrorCode.UNAVAILABLE

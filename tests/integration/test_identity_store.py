"""The store on PostgreSQL does what the suite says, and what only a database can do."""

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from uuid import uuid4

import psycopg
import pytest

from crosslogic_common.postgres import migrate, open_pool
from crosslogic_identity.audit_store import PostgresAuditStore
from crosslogic_identity.plan_store import PostgresPlanStore
from crosslogic_identity.store import CHANNEL, PostgresStore
from crosslogic_identity.user_store import PostgresUserStore
from tests.contract.identity_store_suite import (
    Announced,
    AnyStore,
    StoreSuite,
    digest,
    new_environment,
    new_key,
    new_org,
)
from tests.contract.identity_terms_suite import TermsSuite
from tests.fakes.identity_store import NOBODY
from tests.fakes.postgres_notices import notices


class AllStores(PostgresStore, PostgresPlanStore, PostgresUserStore, PostgresAuditStore):
    """All of identity's stores over one pool."""


@pytest.fixture
async def store(pg_url: str) -> AsyncIterator[AllStores]:
    await migrate(pg_url, schema="identity", migrations=files("crosslogic_identity.migrations"))
    async with open_pool(pg_url, schema="identity", max_size=8) as pool:
        yield AllStores(pool)


@pytest.fixture
async def announced(pg_url: str, store: AnyStore) -> AsyncIterator[Announced]:
    async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as connection:
        await connection.execute(f"LISTEN {CHANNEL}".encode())

        async def taken() -> list[str]:
            return await notices(connection, channel=CHANNEL, url=pg_url)

        yield taken


class TestPostgresStore(StoreSuite, TermsSuite):
    pass


async def test_a_retry_after_a_day_is_a_new_request(pg_url: str, store: AnyStore) -> None:
    request = str(uuid4())
    first = await store.add_org(new_org("Day"), request, NOBODY)
    async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as connection:
        await connection.execute(
            "UPDATE identity.create_requests SET created_at = now() - interval '25 hours' WHERE request_id = %s",
            (request,),
        )
    assert (await store.add_org(new_org("Day"), request, NOBODY)).id != first.id


async def test_resolving_a_key_reads_by_index_however_many_there_are(pg_url: str, store: AnyStore) -> None:
    org = await store.add_org(new_org(), "", NOBODY)
    environment = await store.add_environment(new_environment(org), "", NOBODY)
    await asyncio.gather(*(store.add_api_key(new_key(environment), digest(), NOBODY) for _ in range(200)))
    async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as connection:
        await connection.execute("SET search_path = identity")
        await connection.execute("SET enable_seqscan = off")
        cursor = await connection.execute(
            "EXPLAIN SELECT k.id FROM api_keys k JOIN environments e ON e.id = k.environment_id"
            " JOIN orgs o ON o.id = k.org_id JOIN plans p ON p.name = o.plan WHERE k.secret_sha256 = %s",
            (digest(),),
        )
        plan = "\n".join(row[0] for row in await cursor.fetchall())
    assert "Seq Scan" not in plan
    assert "secret_sha256" in plan


async def test_no_secret_is_in_the_database(pg_url: str, store: AnyStore) -> None:
    async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as connection:
        cursor = await connection.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_schema = 'identity' AND table_name = 'api_keys'"
        )
        columns = {row[0] for row in await cursor.fetchall()}
    assert "secret" not in columns
    assert "secret_sha256" in columns

"""The audit log on PostgreSQL: nobody changes it in silence, and no change goes without it."""

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files

import psycopg
import pytest

from crosslogic_common.clock import SystemClock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.postgres import Pool, migrate, open_pool
from crosslogic_identity.audit import AuditEntry, Head
from crosslogic_identity.audit_log import AuditLog
from crosslogic_identity.audit_store import PostgresAuditStore
from crosslogic_identity.domain import Actor, OrgChanges
from crosslogic_identity.service import IdentityService
from crosslogic_identity.store import PostgresStore

SCHEMA = "identity_audit"
"""Of its own: what is tampered with here must not be anybody else's."""
OPERATOR = Actor("token", name="operator", address="192.0.2.1")


@pytest.fixture
async def pool(pg_url: str) -> AsyncIterator[Pool]:
    async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as connection:
        await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE".encode())
    await migrate(pg_url, schema=SCHEMA, migrations=files("crosslogic_identity.migrations"))
    async with open_pool(pg_url, schema=SCHEMA, max_size=8) as opened:
        yield opened


@pytest.fixture
async def log(pool: Pool) -> AuditLog:
    service = IdentityService(store=PostgresStore(pool), clock=SystemClock(), ids=Uuid7Source())
    org = await service.create_org(OrgChanges(name="Acme"), "", OPERATOR)
    for number in range(9):
        await service.change_org(org.id, OrgChanges(name=f"Acme {number}"), OPERATOR)
    return AuditLog(store=PostgresAuditStore(pool))


async def tamper(pool: Pool, statement: str) -> None:
    """As whoever owns the table can."""
    async with pool.connection() as connection:
        await connection.execute("ALTER TABLE audit DISABLE TRIGGER ALL")
        await connection.execute(statement.encode())
        await connection.execute("ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_no_change")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor_name = 'somebody else' WHERE seq = 5",
        "DELETE FROM audit WHERE seq = 10",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "DELETE FROM audit_head",
        "SET session_replication_role = replica; DELETE FROM audit WHERE seq = 10",
    ],
)
async def test_the_database_refuses_to_change_the_audit_log(pool: Pool, log: AuditLog, statement: str) -> None:
    async with pool.connection() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            await connection.execute(statement.encode())
        await connection.rollback()
        await connection.execute("RESET session_replication_role")
    verdict = await log.verify(0, 100, None)
    assert (verdict.intact, verdict.records, verdict.head.seq) == (True, 10, 10)


@pytest.mark.parametrize(
    ("statement", "broken_seq", "problem"),
    [
        ("UPDATE audit SET actor_name = 'somebody else' WHERE seq = 5", 5, "altered"),
        ("UPDATE audit SET after = replace(after, 'Acme', 'Evil') WHERE seq = 1", 1, "altered"),
        ("UPDATE audit SET at = at + interval '1 microsecond' WHERE seq = 10", 10, "altered"),
        ("UPDATE audit SET hash = sha256('x') WHERE seq = 3", 3, "altered"),
        ("UPDATE audit SET seq = 100 WHERE seq = 4", 4, "missing"),
        ("DELETE FROM audit WHERE seq = 5", 5, "missing"),
        ("DELETE FROM audit WHERE seq = 1", 1, "missing"),
        ("DELETE FROM audit WHERE seq >= 8", 8, "missing"),
        ("DELETE FROM audit WHERE seq = 10; UPDATE audit_head SET seq = 9", 10, "head"),
        ("DELETE FROM audit", 1, "missing"),
    ],
)
async def test_a_removed_or_altered_record_shows(
    pool: Pool, log: AuditLog, statement: str, broken_seq: int, problem: str
) -> None:
    await tamper(pool, statement)
    verdict = await log.verify(0, 100, None)
    assert (verdict.intact, verdict.broken_seq, verdict.problem) == (False, broken_seq, problem)


async def test_a_chain_that_was_rewritten_whole_shows_to_whoever_kept_a_hash(pool: Pool, log: AuditLog) -> None:
    before = (await log.verify(0, 100, None)).head
    await tamper(
        pool,
        "DELETE FROM audit WHERE seq > 8; "
        "UPDATE audit_head SET (seq, hash) = (SELECT seq, hash FROM audit WHERE seq = 8)",
    )
    assert (await log.verify(0, 100, None)).intact
    verdict = await log.verify(0, 100, before)
    assert (verdict.intact, verdict.broken_seq, verdict.problem) == (False, 10, "missing")
    await log.record(AuditEntry(actor=OPERATOR, action="model.create"))
    await log.record(AuditEntry(actor=OPERATOR, action="model.create"))
    assert (await log.verify(0, 100, None)).intact
    assert (await log.verify(0, 100, before)).problem == "known hash"


async def test_a_long_log_is_verified_in_parts(log: AuditLog) -> None:
    first = await log.verify(0, 4, None)
    assert (first.intact, first.records, first.next_seq) == (True, 4, 5)
    rest = await log.verify(first.next_seq, 100, Head(4, b"another"))
    assert (rest.intact, rest.problem) == (False, "known hash")
    rest = await log.verify(first.next_seq, 100, None)
    assert (rest.intact, rest.records, rest.next_seq) == (True, 6, 0)


async def test_actions_at_the_same_time_make_one_chain_without_gaps(pool: Pool, log: AuditLog) -> None:
    entries = [AuditEntry(actor=OPERATOR, action=f"test.{number}") for number in range(40)]
    records = await asyncio.gather(*(log.record(entry) for entry in entries))
    assert sorted(record.seq for record in records) == list(range(11, 51))
    assert (await log.verify(0, 100, None)).intact


async def test_a_change_whose_record_cannot_be_written_is_not_made(pool: Pool, log: AuditLog) -> None:
    store = PostgresStore(pool)
    (org,) = await store.orgs("00000000-0000-0000-0000-000000000000", 10)
    async with pool.connection() as connection:
        await connection.execute("ALTER TABLE audit ADD CONSTRAINT full_disk CHECK (seq < 11)")
    with pytest.raises(psycopg.errors.CheckViolation):
        await store.change_org(org.id, OrgChanges(status="suspended"), OPERATOR)
    assert await store.org(org.id) == org


async def test_what_another_service_does_is_written_down_only_if_it_makes_sense(log: AuditLog) -> None:
    for field, value in (
        ("action", ""),
        ("action", "x" * 101),
        ("object_id", "a\nb"),
        ("before", "{"),
        ("after", "\0"),
    ):
        entry = AuditEntry(**{"actor": OPERATOR, "action": "a", field: value})  # type: ignore[arg-type]
        with pytest.raises(CodedError) as raised:
            await log.record(entry)
        assert raised.value.code == ErrorCode.INVALID_ARGUMENT

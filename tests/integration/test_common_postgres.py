"""Pool and migrations on a real PostgreSQL: away, hung, cut, and altered behind our back."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import MigrationError, migrate, notifications, open_pool, transaction
from crosslogic_dev.postgres import drop_database
from tests.fakes.tcp_proxy import TcpProxy


@pytest.fixture
async def proxy(pg_url: str) -> AsyncIterator[TcpProxy]:
    parts = conninfo_to_dict(pg_url)
    async with TcpProxy(str(parts["host"]), int(str(parts.get("port") or 5432))) as proxy:
        yield proxy


def through(proxy: TcpProxy, dsn: str) -> str:
    return make_conninfo(dsn, host="127.0.0.1", port=str(proxy.port))


async def one(pool: object, *, timeout_s: float = 15.0) -> int:
    async with transaction(pool, timeout_s=timeout_s) as connection:  # type: ignore[arg-type]
        row = await (await connection.execute("SELECT 1")).fetchone()
    assert row is not None
    return int(row[0])


async def patiently(pool: object) -> int:
    """As a caller does that tries again while it is told UNAVAILABLE."""
    while True:
        with contextlib.suppress(CodedError):
            return await one(pool)


async def silenced(pool: object, proxy: TcpProxy, *, timeout_s: float) -> None:
    """A query that the database hangs in."""
    async with transaction(pool, timeout_s=timeout_s) as connection:  # type: ignore[arg-type]
        proxy.silence()
        await connection.execute("SELECT 1")


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name[1:]}.sql").write_text(text)
    return folder


async def test_pool_works_in_its_schema_with_its_time_limit(pg_url: str, tmp_path: Path) -> None:
    await migrate(pg_url, schema="pooled", migrations=write(tmp_path / "m", _0001_a="CREATE TABLE t (x int)"))
    async with open_pool(pg_url, schema="pooled", statement_timeout_ms=200) as pool:
        async with transaction(pool) as connection:
            await connection.execute("INSERT INTO t VALUES (1)")
            path = await (await connection.execute("SHOW search_path")).fetchone()
            zone = await (await connection.execute("SHOW timezone")).fetchone()
        with pytest.raises(CodedError) as caught:
            async with transaction(pool) as connection:
                await connection.execute("SELECT pg_sleep(5)")
    assert (path, zone) == (("pooled",), ("UTC",))
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert "statement timeout" in caught.value.private


async def test_failed_transaction_leaves_nothing_behind(pg_url: str, tmp_path: Path) -> None:
    await migrate(pg_url, schema="undone", migrations=write(tmp_path / "m", _0001_a="CREATE TABLE t (x int)"))
    async with open_pool(pg_url, schema="undone") as pool:
        with contextlib.suppress(RuntimeError):
            async with transaction(pool) as connection:
                await connection.execute("INSERT INTO t VALUES (1)")
                raise RuntimeError
        async with transaction(pool) as connection:
            count = await (await connection.execute("SELECT count(*) FROM t")).fetchone()
    assert count == (0,)


async def test_service_starts_while_its_database_is_away_and_works_once_it_is_back(
    pg_url: str, proxy: TcpProxy
) -> None:
    proxy.refuse()
    async with open_pool(through(proxy, pg_url), schema="public", wait_s=1.0) as pool:
        started = time.monotonic()
        with pytest.raises(CodedError) as caught:
            await one(pool)
        assert caught.value.code is ErrorCode.UNAVAILABLE
        assert time.monotonic() - started < 2
        await proxy.accept_again()
        assert await patiently(pool) == 1


async def test_long_outage_is_over_seconds_after_the_database_is_back(pg_url: str, proxy: TcpProxy) -> None:
    async with open_pool(through(proxy, pg_url), schema="public", wait_s=1.0) as pool:
        assert await one(pool) == 1
        proxy.refuse()
        await proxy.cut()
        for _ in range(4):
            with pytest.raises(CodedError):
                await one(pool)
        await proxy.accept_again()
        started = time.monotonic()
        assert await patiently(pool) == 1
        assert time.monotonic() - started < 4


async def test_connections_that_died_while_idle_fail_no_request(pg_url: str, proxy: TcpProxy) -> None:
    async with open_pool(through(proxy, pg_url), schema="public") as pool:
        assert await one(pool) == 1
        await proxy.cut()
        assert await one(pool) == 1


async def test_hung_database_costs_the_time_limit_and_not_for_ever(pg_url: str, proxy: TcpProxy) -> None:
    async with open_pool(through(proxy, pg_url), schema="public", max_size=2, wait_s=1.0) as pool:
        assert await one(pool) == 1
        started = time.monotonic()
        with pytest.raises(CodedError) as in_flight:
            await silenced(pool, proxy, timeout_s=0.5)
        assert time.monotonic() - started < 4
        with pytest.raises(CodedError) as next_one:
            await one(pool, timeout_s=0.5)
        assert time.monotonic() - started < 10
        proxy.speak()
        assert await patiently(pool) == 1
    assert in_flight.value.code is ErrorCode.UNAVAILABLE
    assert next_one.value.code is ErrorCode.UNAVAILABLE


async def test_caller_that_gives_up_on_a_hung_database_is_let_go(pg_url: str, proxy: TcpProxy) -> None:
    async with open_pool(through(proxy, pg_url), schema="public", wait_s=1.0) as pool:
        assert await one(pool) == 1
        started = time.monotonic()
        with pytest.raises((TimeoutError, CodedError)):
            await asyncio.wait_for(silenced(pool, proxy, timeout_s=1.0), 0.2)
        assert time.monotonic() - started < 3
        proxy.speak()


async def test_a_process_that_stood_still_cuts_no_connection_that_has_answered(pg_url: str) -> None:
    async with open_pool(pg_url, schema="public", max_size=1) as pool:
        async with transaction(pool, timeout_s=0.2) as connection:
            asked = asyncio.create_task(connection.execute("SELECT pg_backend_pid()"))
            await asyncio.sleep(0)
            time.sleep(0.4)
            (before,) = await (await asked).fetchone() or ()
        async with transaction(pool) as connection:
            (after,) = await (await connection.execute("SELECT pg_backend_pid()")).fetchone() or ()
    assert before == after


async def test_more_callers_than_connections_wait_their_turn(pg_url: str) -> None:
    async with open_pool(pg_url, schema="public", max_size=2) as pool:
        assert await asyncio.gather(*(one(pool) for _ in range(50))) == [1] * 50


async def test_migrations_run_once_in_order_even_when_three_replicas_start_together(
    pg_url: str, tmp_path: Path
) -> None:
    folder = write(
        tmp_path / "m",
        _0002_b="ALTER TABLE t ADD COLUMN y int; CREATE INDEX ON t (y);",
        _0001_a="CREATE TABLE t (x int)",
    )
    applied = await asyncio.gather(*(migrate(pg_url, schema="raced", migrations=folder) for _ in range(3)))
    assert sorted(map(len, applied)) == [0, 0, 2]
    assert ["0001_a.sql", "0002_b.sql"] in applied
    assert await migrate(pg_url, schema="raced", migrations=folder) == []


async def test_migration_that_fails_half_way_leaves_nothing_and_names_itself(pg_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", _0001_a="CREATE TABLE t (x int)", _0002_b="CREATE TABLE u (x int); SELECT nonsense")
    with pytest.raises(MigrationError, match=r"halves: 0002_b.sql failed and was rolled back: .*nonsense"):
        await migrate(pg_url, schema="halves", migrations=folder)
    (folder / "0002_b.sql").write_text("CREATE TABLE u (x int)")
    assert await migrate(pg_url, schema="halves", migrations=folder) == ["0002_b.sql"]


async def test_migration_altered_after_it_was_applied_is_refused(pg_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", _0001_a="CREATE TABLE t (x int)")
    await migrate(pg_url, schema="altered", migrations=folder)
    (folder / "0001_a.sql").write_text("CREATE TABLE t (x bigint)")
    with pytest.raises(MigrationError, match=r"0001_a\.sql changed after it was applied"):
        await migrate(pg_url, schema="altered", migrations=folder)


async def test_migration_slipped_in_before_an_applied_one_is_refused(pg_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", _0002_b="CREATE TABLE t (x int)")
    await migrate(pg_url, schema="slipped", migrations=folder)
    write(folder, _0001_a="CREATE TABLE u (x int)")
    with pytest.raises(MigrationError, match="give it a later number"):
        await migrate(pg_url, schema="slipped", migrations=folder)


async def test_migration_waits_for_a_database_that_starts_late(pg_url: str, proxy: TcpProxy, tmp_path: Path) -> None:
    proxy.refuse()
    folder = write(tmp_path / "m", _0001_a="CREATE TABLE t (x int)")
    migrating = asyncio.create_task(migrate(through(proxy, pg_url), schema="late", migrations=folder))
    await asyncio.sleep(0.3)
    await proxy.accept_again()
    assert await asyncio.wait_for(migrating, 10) == ["0001_a.sql"]


async def test_migration_without_a_database_ends_in_one_clear_line(pg_url: str, tmp_path: Path) -> None:
    nowhere = make_conninfo(pg_url, host="127.0.0.1", port="1")
    with pytest.raises(MigrationError, match=r"late: the database was away for 0.2 s: .*refused"):
        await migrate(nowhere, schema="late", migrations=write(tmp_path / "m", _0001_a="SELECT 1"), wait_s=0.2)


async def test_listener_says_when_it_may_have_missed_something(pg_url: str, proxy: TcpProxy) -> None:
    heard = notifications(through(proxy, pg_url), schema="public", channel="news")
    assert await asyncio.wait_for(anext(heard), 5) is None
    async with await psycopg.AsyncConnection.connect(pg_url, autocommit=True) as connection:
        await connection.execute("SELECT pg_notify('news', 'one')")
        assert await asyncio.wait_for(anext(heard), 5) == "one"
        await proxy.cut()
        assert await asyncio.wait_for(anext(heard), 5) is None
        await connection.execute("SELECT pg_notify('news', 'two')")
        assert await asyncio.wait_for(anext(heard), 5) == "two"
    await heard.aclose()  # type: ignore[attr-defined]


async def test_database_of_another_encoding_is_named_before_anything_is_made_in_it(pg_url: str, tmp_path: Path) -> None:
    name = f"ascii_{uuid.uuid4().hex}"
    url = f"{pg_url.rpartition('/')[0]}/{name}"
    with psycopg.connect(pg_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING SQL_ASCII LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0".encode()
        )
    try:
        with pytest.raises(MigrationError, match="is SQL_ASCII, and must be UTF8: make it anew with `createdb"):
            await migrate(url, schema="ascii", migrations=tmp_path)
    finally:
        drop_database(url)

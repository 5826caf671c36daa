"""PostgreSQL dies, hangs and comes back under the ledger: what was acknowledged is there, nothing twice."""

import asyncio
import contextlib
import os
import random
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from crosslogic_accountant.group_commit import GroupCommit
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_dev.ports import free_port
from crosslogic_dev.postgres import ensure_database, start_postgres
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.run_dir import RunDir
from tests.fakes.accountant_database import ledger_store, metrics, prepare_ledger
from tests.fakes.accountant_samples import prepared, sample_context, sample_record


class OwnServer:
    """A PostgreSQL of this test's own, with fsync on, that may be hurt."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._table = ProcessTable(run_dir)
        self._port = free_port()
        self._server_url = self.start()
        self.url = ""

    def use_fresh_database(self) -> None:
        self.url = f"{self._server_url.rpartition('/')[0]}/test_{uuid.uuid4().hex}"
        ensure_database(self.url)

    def start(self) -> str:
        while self._table.pid("postgres") is not None:  # killed, and not yet buried
            time.sleep(0.02)
        return start_postgres(self._table, self._run_dir, port=self._port, durable=True)

    def signal_all(self, number: signal.Signals) -> None:
        """To the postmaster first, so that it forks no more, then to every backend."""
        postmaster = self._table.pid("postgres")
        assert postmaster is not None
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        self._table.stop(["postgres"], number=signal.SIGINT)


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    with tempfile.TemporaryDirectory(prefix="cl-accountant-") as folder:
        Path(folder).chmod(0o711)
        run_dir = RunDir(Path(folder) / "run")
        run_dir.make()
        opened = OwnServer(run_dir)
        try:
            yield opened
        finally:
            opened.stop()


@pytest.fixture
def server(own_server: OwnServer) -> OwnServer:
    own_server.use_fresh_database()
    return own_server


@contextlib.asynccontextmanager
async def group_commit(
    url: str, *, timeout_s: float = 10.0, max_queued: int = 32_768, drain_s: float = 5.0
) -> AsyncIterator[GroupCommit[PreparedRecord, Stored]]:
    measured = metrics()
    commit: GroupCommit[PreparedRecord, Stored] = GroupCommit(
        name="records",
        sinks=[ledger_store(url, timeout_s) for _ in range(2)],
        batch_size=measured.batch_size,
        commit_seconds=measured.commit_seconds,
        failures=measured.commit_failures,
        max_queued=max_queued,
        drain_s=drain_s,
    )
    async with commit.running():
        yield commit


def stored_ids(url: str) -> list[bytes]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT request_id FROM ledger.usage_records WHERE requests = 1").fetchall()
    return sorted(row[0].bytes for row in rows)


def some(count: int) -> list[PreparedRecord]:
    return [prepared(sample_record(sample_context(model="faults"))) for _ in range(count)]


async def test_killing_postgres_in_mid_commit_loses_and_doubles_nothing(server: OwnServer) -> None:
    await prepare_ledger(server.url)
    sent: list[bytes] = []
    acknowledged: list[bytes] = []
    ending = asyncio.Event()

    async def gateway(commit: GroupCommit[PreparedRecord, Stored]) -> None:
        while not ending.is_set():
            items = some(40)
            sent.extend(item.record.request_id for item in items)
            answers = await commit.submit(items)
            assert all(isinstance(answer, Stored) for answer in answers)
            acknowledged.extend(item.record.request_id for item in items)

    async with group_commit(server.url) as commit:
        gateways = [asyncio.create_task(gateway(commit)) for _ in range(4)]
        for _ in range(2):
            await asyncio.sleep(0.2 + 0.2 * random.random())
            server.signal_all(signal.SIGKILL)
            known = list(acknowledged)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.start)
            assert set(known) <= set(await asyncio.to_thread(stored_ids, server.url))
        before = len(acknowledged)
        async with asyncio.timeout(20):
            while len(acknowledged) < before + 200:
                await asyncio.sleep(0.05)
        ending.set()
        await asyncio.gather(*gateways)
    assert stored_ids(server.url) == sorted(sent) == sorted(acknowledged)


async def test_a_postgres_that_hangs_holds_records_up_and_loses_none(server: OwnServer) -> None:
    await prepare_ledger(server.url)
    async with group_commit(server.url, timeout_s=0.5) as commit:
        first = some(10)
        await commit.submit(first)
        server.signal_all(signal.SIGSTOP)
        second = some(10)
        waiting = asyncio.create_task(commit.submit(second))
        await asyncio.sleep(1.5)
        assert not waiting.done()
        server.signal_all(signal.SIGCONT)
        async with asyncio.timeout(30):
            answers = await waiting
    assert all(isinstance(answer, Stored) for answer in answers)
    assert stored_ids(server.url) == sorted(item.record.request_id for item in (*first, *second))


async def test_while_postgres_is_away_the_queue_stays_bounded_and_resumes_by_itself(server: OwnServer) -> None:
    await prepare_ledger(server.url)
    server.stop()
    async with group_commit(server.url, max_queued=500) as commit:
        parts = [some(100) for _ in range(60)]
        waiting = [asyncio.create_task(commit.submit(part)) for part in parts]
        await asyncio.sleep(0.5)
        assert commit.queued <= 600
        assert not any(task.done() for task in waiting)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(20):
            await asyncio.gather(*waiting)
    assert stored_ids(server.url) == sorted(item.record.request_id for part in parts for item in part)


async def test_an_accountant_that_must_stop_without_its_database_refuses_nothing_for_good(server: OwnServer) -> None:
    server.stop()
    async with group_commit(server.url, drain_s=0.1) as commit:
        waiting = asyncio.create_task(commit.submit(some(5)))
        await asyncio.sleep(0.1)
    with pytest.raises(CodedError) as caught:
        await waiting
    assert caught.value.code is ErrorCode.UNAVAILABLE
    server.start()


async def test_a_schema_that_is_not_there_yet_is_waited_for(server: OwnServer) -> None:
    async with group_commit(server.url) as commit:
        items = some(3)
        waiting = asyncio.create_task(commit.submit(items))
        await asyncio.sleep(0.3)
        await prepare_ledger(server.url)
        async with asyncio.timeout(10):
            assert await waiting == [Stored()] * 3

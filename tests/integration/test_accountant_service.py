"""The accountant as its callers meet it: over mTLS, as a process that is killed and stopped."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic_common.errors import ErrorCode, from_rpc_error
from crosslogic_common.tls import Channels
from crosslogic_dev.ports import free_port
from tests.fakes.accountant_process import accountant_environ, start_accountant
from tests.fakes.accountant_samples import (
    ORG,
    request_uuid,
    sample_context,
    sample_record,
    sample_usage,
    sample_witness,
)
from tests.fakes.test_ca import CertificateMaker

Stub: TypeAlias = "rpc.AccountantServiceAsyncStub"


class Process:
    """One accountant that can be killed and started again at the same address."""

    def __init__(self, url: str, ca: CertificateMaker, folder: Path) -> None:
        self.url = url
        self.ca = ca
        self.port = free_port()
        self.log = folder / "accountant.log"
        self.environ = accountant_environ(url, ca.service("accountant"), self.port)
        self.child: subprocess.Popen[bytes] = start_accountant(self.environ, self.log)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def end(self, number: signal.Signals) -> int:
        self.child.send_signal(number)
        return self.child.wait(20)

    def start(self) -> None:
        self.child = start_accountant(self.environ, self.log)


@pytest.fixture(scope="module")
def process(pg_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("accountant")
    opened = Process(pg_url, CertificateMaker(folder / "ca"), folder)
    try:
        yield opened
    finally:
        opened.end(signal.SIGKILL)


@contextlib.asynccontextmanager
async def calling(process: Process, name: str) -> AsyncIterator[Stub]:
    channels = Channels(process.ca.service(name))
    try:
        stub: Stub = rpc.AccountantServiceStub(channels.service("accountant", process.target))
        yield stub
    finally:
        await channels.close()


@pytest.fixture
async def gateway(process: Process) -> AsyncIterator[Stub]:
    async with calling(process, "gateway") as stub:
        await stub.ListUsageRecords(pb.ListUsageRecordsRequest(page_size=1), wait_for_ready=True, timeout=20)
        yield stub


@pytest.fixture
async def registry(process: Process) -> AsyncIterator[Stub]:
    async with calling(process, "registry") as stub:
        yield stub


@contextlib.asynccontextmanager
async def refused(code: ErrorCode) -> AsyncIterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert from_rpc_error(caught.value).code is code


async def test_a_record_is_stored_once_and_told_so(gateway: Stub) -> None:
    record = sample_record(sample_context(model="unary"))
    assert not (await gateway.RecordUsage(pb.RecordUsageRequest(record=record))).duplicate
    assert (await gateway.RecordUsage(pb.RecordUsageRequest(record=record))).duplicate
    listed = await gateway.ListUsageRecords(pb.ListUsageRecordsRequest(request_id=record.context.request_id))
    (stored,) = listed.records
    assert stored.record == record
    assert stored.cost_picodollars == str(100 * 50_000 + 20 * 70_000)
    assert not stored.from_witness
    assert abs(stored.record_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_senseless_record_is_refused_alone_and_its_neighbours_are_acknowledged(gateway: Stub) -> None:
    records = [sample_record(sample_context(model="streamed")) for _ in range(5)]
    records[2].context.org_id = "nobody"
    stream = gateway.RecordStream()
    await stream.write(
        pb.RecordStreamRequest(
            calls=[pb.RecordStreamCall(id=number, record=record) for number, record in enumerate(records, 1)]
        )
    )
    await stream.done_writing()
    results: dict[int, str] = {}
    async for response in stream:
        results |= {result.id: result.error.code for result in response.results}
    assert results == {1: "", 2: "", 3: "INVALID_ARGUMENT", 4: "", 5: ""}


async def test_usage_is_added_up_by_what_was_asked_for_page_by_page(gateway: Stub) -> None:
    started = datetime(2026, 1, 1, tzinfo=UTC)
    hours = [datetime.now(UTC).replace(minute=30, second=0, microsecond=0) - timedelta(hours=back) for back in (1, 2)]
    for model in ("sum-a", "sum-b"):
        for hour in hours:
            for _ in range(2):
                context = sample_context(model=model, start_time_unix_us=round(hour.timestamp() * 1e6))
                await gateway.RecordUsage(pb.RecordUsageRequest(record=sample_record(context, sample_usage(10, 5, 4))))
    request = pb.QueryUsageRequest(
        filter=pb.UsageFilter(org_id=ORG, region="eu", to_time=stamp(hours[0] + timedelta(minutes=1))),
        group_by=[pb.GROUP_BY_MODEL, pb.GROUP_BY_HOUR, pb.GROUP_BY_ORG],
        page_size=3,
    )
    request.filter.from_time.CopyFrom(stamp(started))
    rows: list[pb.UsageRow] = []
    while True:
        page = await gateway.QueryUsage(request)
        rows += page.rows
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
        assert len(page.rows) == 3
    seen = [
        (row.model, row.time.ToDatetime(UTC), row.requests, row.prompt_tokens, row.cached_prompt_tokens)
        for row in rows
        if row.model.startswith("sum-")
    ]
    floor = [hour.replace(minute=0) for hour in sorted(hours)]
    assert seen == [(model, hour, 2, 20, 8) for model in ("sum-a", "sum-b") for hour in floor]
    assert all(row.org_id == ORG and not row.region for row in rows)
    one = await gateway.QueryUsage(pb.QueryUsageRequest(filter=pb.UsageFilter(model="sum-a")))
    assert [(row.requests, row.completion_tokens, row.cost_picodollars) for row in one.rows] == [
        (4, 20, str(4 * (10 * 50_000 + 5 * 70_000)))
    ]


async def test_records_are_listed_newest_first_page_by_page(gateway: Stub) -> None:
    records = [sample_record(sample_context(model="listed")) for _ in range(7)]
    for record in records:
        await gateway.RecordUsage(pb.RecordUsageRequest(record=record))
    request = pb.ListUsageRecordsRequest(filter=pb.UsageFilter(model="listed"), page_size=3)
    seen: list[str] = []
    while True:
        page = await gateway.ListUsageRecords(request)
        seen += [stored.record.context.request_id for stored in page.records]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert seen == [record.context.request_id for record in reversed(records)]


async def test_nonsense_questions_are_refused(gateway: Stub) -> None:
    for query in (
        pb.QueryUsageRequest(group_by=[pb.GROUP_BY_UNSPECIFIED]),
        pb.QueryUsageRequest(group_by=[pb.GROUP_BY_ORG, pb.GROUP_BY_ORG]),
        pb.QueryUsageRequest(group_by=pb.GroupBy.values()[1:6]),
        pb.QueryUsageRequest(page_size=10_001),
        pb.QueryUsageRequest(page_size=-1),
        pb.QueryUsageRequest(page_token="never ours"),
        pb.QueryUsageRequest(group_by=[pb.GROUP_BY_HOUR], page_token="WyJ4Il0"),
        pb.QueryUsageRequest(group_by=[pb.GROUP_BY_HOUR], page_token="WzFlOTk5XQ"),
        pb.QueryUsageRequest(group_by=[pb.GROUP_BY_MODEL], page_token="WzFd"),
        pb.QueryUsageRequest(filter=pb.UsageFilter(org_id="' OR 1=1")),
        pb.QueryUsageRequest(filter=pb.UsageFilter(model="a\0b")),
        pb.QueryUsageRequest(filter=pb.UsageFilter(from_time=Timestamp(seconds=2**60))),
    ):
        async with refused(ErrorCode.INVALID_ARGUMENT):
            await gateway.QueryUsage(query)
    for listing in (
        pb.ListUsageRecordsRequest(request_id="x"),
        pb.ListUsageRecordsRequest(page_size=1_001),
        pb.ListUsageRecordsRequest(page_token="bm8"),
    ):
        async with refused(ErrorCode.INVALID_ARGUMENT):
            await gateway.ListUsageRecords(listing)


async def test_a_witness_settles_what_no_gateway_reported(gateway: Stub, registry: Stub) -> None:
    context = sample_context(model="settled")
    forged = sample_witness(sample_context(), key=bytes(32))
    answer = await registry.RecordWitnesses(pb.RecordWitnessesRequest(witnesses=[sample_witness(context), forged]))
    assert [bool(reason) for reason in answer.refused_reasons] == [False, True]
    async with asyncio.timeout(10):
        while True:
            page = await gateway.ListUsageRecords(pb.ListUsageRecordsRequest(request_id=context.request_id))
            if page.records:
                break
            await asyncio.sleep(0.1)
    assert page.records[0].from_witness
    assert page.records[0].cost_picodollars == str(100 * 50_000 + 20 * 70_000)


async def test_only_those_may_call_whom_the_contract_names(process: Process, gateway: Stub, registry: Stub) -> None:
    context = sample_context()
    async with refused(ErrorCode.PERMISSION_DENIED):
        await registry.RecordUsage(pb.RecordUsageRequest(record=sample_record(context)))
    async with refused(ErrorCode.PERMISSION_DENIED):
        await gateway.RecordWitnesses(pb.RecordWitnessesRequest(witnesses=[sample_witness(context)]))
    async with refused(ErrorCode.PERMISSION_DENIED), calling(process, "scheduler") as scheduler:
        await scheduler.QueryUsage(pb.QueryUsageRequest())
    async with refused(ErrorCode.PERMISSION_DENIED), calling(process, "operator") as operator:
        stream = operator.RecordStream()
        await stream.read()
    stranger = CertificateMaker(process.log.parent / "strangers", name="strangers").service("gateway")
    channels = Channels(type(stranger)(stranger.cert_file, stranger.key_file, process.ca.ca_file))
    async with refused(ErrorCode.UNAVAILABLE):
        stub: Stub = rpc.AccountantServiceStub(channels.service("accountant", process.target))
        await stub.QueryUsage(pb.QueryUsageRequest(), timeout=5)
    await channels.close()


class ResendingGateway:
    """Sends records until each is acknowledged, over as many streams as that takes."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.waiting: dict[int, pb.UsageRecord] = {}
        self.sent: list[pb.UsageRecord] = []
        self.acknowledged = 0

    async def run(self, ending: asyncio.Event) -> None:
        async with calling(self._process, "gateway") as stub:
            while not ending.is_set() or self.waiting:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await self._stream(stub, ending)
                await asyncio.sleep(0.05)

    async def _stream(self, stub: Stub, ending: asyncio.Event) -> None:
        stream = stub.RecordStream(wait_for_ready=True)
        while not ending.is_set() or self.waiting:
            if not ending.is_set():
                for _ in range(50):
                    record = sample_record(sample_context(model="killed"))
                    self.sent.append(record)
                    self.waiting[len(self.sent)] = record
            batch = [pb.RecordStreamCall(id=number, record=record) for number, record in self.waiting.items()]
            await stream.write(pb.RecordStreamRequest(calls=batch))
            for _ in range(len(batch)):
                response = await stream.read()
                if not isinstance(response, pb.RecordStreamResponse):
                    return
                for result in response.results:
                    assert not result.HasField("error"), result.error
                    if self.waiting.pop(result.id, None) is not None:
                        self.acknowledged += 1
                if not self.waiting:
                    break


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_accountant_that_ends_under_load_loses_and_doubles_nothing(
    process: Process, gateway: Stub, number: signal.Signals
) -> None:
    ending = asyncio.Event()
    sender = ResendingGateway(process)
    task = asyncio.create_task(sender.run(ending))
    for _ in range(2):
        before = sender.acknowledged
        async with asyncio.timeout(20):
            while sender.acknowledged < before + 200:
                await asyncio.sleep(0.01)
        status = await asyncio.to_thread(process.end, number)
        assert status == (0 if number == signal.SIGTERM else -number)
        process.start()
    ending.set()
    async with asyncio.timeout(30):
        await task
    with psycopg.connect(process.url) as connection:
        rows = connection.execute("SELECT request_id FROM ledger.usage_records WHERE model = 'killed'").fetchall()
    ids = {row[0] for row in rows}
    assert len(rows) == len(ids)
    assert {request_uuid(record) for record in sender.sent} <= ids


async def test_the_accountant_stops_in_time_without_its_database(process: Process) -> None:
    environ = {**process.environ, "CROSSLOGIC_MIGRATE": "0", "CROSSLOGIC_SHUTDOWN_GRACE_S": "1"}
    environ["DATABASE_URL"] = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    environ["CROSSLOGIC_LISTEN"] = f"127.0.0.1:{free_port()}"
    child = start_accountant(environ, process.log)
    channels = Channels(process.ca.service("gateway"))
    stub: Stub = rpc.AccountantServiceStub(channels.service("accountant", environ["CROSSLOGIC_LISTEN"]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RecordUsage(pb.RecordUsageRequest(record=sample_record()), wait_for_ready=True, timeout=3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    started = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(child.wait, 15) == 0
    assert time.monotonic() - started < 10
    await channels.close()


def stamp(value: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(value)
    return message


def test_a_seal_key_that_is_none_is_told_in_one_line(process: Process, tmp_path: Path) -> None:
    child = start_accountant({**process.environ, "CROSSLOGIC_SEAL_KEY": "short"}, tmp_path / "log")
    assert child.wait(20) == 1
    assert "CROSSLOGIC_SEAL_KEY" in (tmp_path / "log").read_text().splitlines()[-1]

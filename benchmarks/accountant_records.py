"""Durable usage records a second: gRPC streams over mTLS, a real accountant process, PostgreSQL with fsync on.

    .venv/bin/python -m benchmarks.accountant_records [--records 200000] [--witnesses]

Prints one JSON object. A record counts once its acknowledgement has arrived, which is once it is durable. With
`--witnesses` each record's witness comes too, as the registry sends it. Client, accountant and PostgreSQL share the
machine's cores.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import psycopg

from benchmarks.measure import cpu_s
from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.seal import Sealer
from crosslogic_common.tls import Channels
from crosslogic_common.wire import repeated_calls
from crosslogic_dev.certificates import DevelopmentCa
from crosslogic_dev.ports import free_port
from crosslogic_dev.postgres import start_postgres
from crosslogic_dev.processes import ProcessSpec, ProcessTable
from crosslogic_dev.run_dir import RunDir

STREAMS = 2
IN_FLIGHT = 4096
CALLS_A_MESSAGE = 256
WITNESSES_A_MESSAGE = 256
BUDGET_RECORDS_PER_S = 20_000
BUDGET_OF_RAW_COPY = 0.5
_INDEXES = (
    "ALTER TABLE ledger.raw_copy ADD PRIMARY KEY (request_id, revision)",
    *(
        f"CREATE INDEX ON ledger.raw_copy ({columns})"
        for columns in ("org_id, request_id", "environment_id, request_id", "api_key_id, request_id", "batch")
    ),
)
_RECORD_STREAM = "/crosslogic.accountant.v1.AccountantService/RecordStream"


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured."""

    records: int
    seconds: float
    records_per_s: int
    budget_records_per_s: int
    with_witnesses: bool
    witnesses_per_s: int
    accountant_cpu_us_per_record: float
    postgres_cpu_us_per_record: float
    client_cpu_us_per_record: float
    rows_in_ledger: int
    raw_copy_rows_per_s: int
    """The same rows in one COPY, into a table with the same primary key and indexes."""
    bare_copy_rows_per_s: int
    """The same into a table without any index."""
    of_raw_copy: float


@dataclass(frozen=True, slots=True)
class _Load:
    """What is sent, serialised before the clock starts."""

    streams: Sequence[Sequence[bytes]]
    witnesses: Sequence[bytes]


def _load(records: int, *, witnesses: bool, sealer: Sealer) -> _Load:
    ids = Uuid7Source()
    tenants = [str(uuid.uuid4()) for _ in range(200)]
    nodes = [str(uuid.uuid4()) for _ in range(20)]
    serialised: list[bytes] = []
    seals: list[pb.Witness] = []
    for number in range(records):
        tenant, node_id = tenants[number * 7 % len(tenants)], nodes[number % len(nodes)]
        context = pb.RequestContext(
            request_id=str(ids.next()),
            org_id=tenant,
            environment_id=tenant,
            api_key_id=tenant,
            model="llama-3-8b-instruct",
            start_time_unix_us=time.time_ns() // 1000,
            prompt_price_picodollars=50_000,
            completion_price_picodollars=50_000,
            api="/v1/chat/completions",
            stream=True,
            region="eu-west",
            node_id=node_id,
            max_total_tokens=8192,
        )
        usage = common_pb.TokenUsage(
            prompt_tokens=100 + number % 1000,
            completion_tokens=number % 500,
            source=common_pb.COUNT_SOURCE_ENGINE_FINAL,
        )
        record = pb.UsageRecord(
            context=context,
            usage=usage,
            outcome=common_pb.OUTCOME_SUCCEEDED,
            latency_us=1_234_567,
            time_to_first_token_us=45_678,
            http_status=200,
        )
        serialised.append(record.SerializeToString())
        if witnesses:
            seals.append(
                pb.Witness(
                    sealed_context=sealer.seal(context.SerializeToString(), aad=node_id.encode()),
                    usage=usage,
                    outcome=common_pb.OUTCOME_SUCCEEDED,
                    node_id=node_id,
                    duration_us=1_200_000,
                )
            )
    streams = [
        [
            repeated_calls(list(enumerate(serialised[start : start + CALLS_A_MESSAGE], start)))
            for start in range(first * CALLS_A_MESSAGE, records, CALLS_A_MESSAGE * STREAMS)
        ]
        for first in range(STREAMS)
    ]
    requests = [
        pb.RecordWitnessesRequest(witnesses=seals[start : start + WITNESSES_A_MESSAGE]).SerializeToString()
        for start in range(0, len(seals), WITNESSES_A_MESSAGE)
    ]
    return _Load(streams, requests)


async def _send_stream(channel: grpc.aio.Channel, messages: Sequence[bytes]) -> int:
    """Sends all messages with at most IN_FLIGHT calls unacknowledged; returns how many were acknowledged."""
    stream: grpc.aio.StreamStreamMultiCallable[bytes, pb.RecordStreamResponse] = channel.stream_stream(
        _RECORD_STREAM, request_serializer=None, response_deserializer=pb.RecordStreamResponse.FromString
    )
    call = stream()
    window = asyncio.Semaphore(IN_FLIGHT // CALLS_A_MESSAGE)
    acknowledged = 0
    freed = 0

    async def read() -> None:
        nonlocal acknowledged, freed
        while isinstance(response := await call.read(), pb.RecordStreamResponse):
            for result in response.results:
                if result.HasField("error"):
                    raise RuntimeError(result.error.message)
            acknowledged += len(response.results)
            while acknowledged - freed >= CALLS_A_MESSAGE:
                freed += CALLS_A_MESSAGE
                window.release()

    reading = asyncio.create_task(read())
    for message in messages:
        await window.acquire()
        await call.write(message)
    await call.done_writing()
    await reading
    return acknowledged


async def _send_witnesses(channel: grpc.aio.Channel, requests: Sequence[bytes]) -> int:
    """Sends witnesses as a few registries do: each waits for its answer."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, pb.RecordWitnessesResponse] = channel.unary_unary(
        "/crosslogic.accountant.v1.AccountantService/RecordWitnesses",
        request_serializer=None,
        response_deserializer=pb.RecordWitnessesResponse.FromString,
    )
    waiting = iter(requests)

    async def send() -> int:
        stored = 0
        for request in waiting:
            answer = await call(request, timeout=30)
            stored += sum(not reason for reason in answer.refused_reasons)
        return stored

    return sum(await asyncio.gather(*(send() for _ in range(4))))


@contextlib.contextmanager
def _servers(run_dir: RunDir, ca: DevelopmentCa, seal_key: str) -> Iterator[tuple[ProcessTable, str, str]]:
    """PostgreSQL and the accountant; yields the accountant's target and the database's address."""
    table = ProcessTable(run_dir)
    try:
        url = start_postgres(table, run_dir, port=free_port(), durable=True)
        port = free_port()
        tls = ca.service("accountant")
        table.start(
            ProcessSpec(
                name="accountant",
                argv=(sys.executable, "-m", "crosslogic_accountant"),
                environ={
                    "PATH": os.environ.get("PATH", ""),
                    "DATABASE_URL": url,
                    "CROSSLOGIC_LISTEN": f"127.0.0.1:{port}",
                    "CROSSLOGIC_MIGRATE": "1",
                    "CROSSLOGIC_SEAL_KEY": seal_key,
                    "CROSSLOGIC_TLS_CERT_FILE": str(tls.cert_file),
                    "CROSSLOGIC_TLS_KEY_FILE": str(tls.key_file),
                    "CROSSLOGIC_TLS_CA_FILE": str(tls.ca_file),
                    "CROSSLOGIC_LOG_LEVEL": "WARNING",
                },
            )
        )
        yield table, f"127.0.0.1:{port}", url
    finally:
        table.stop(["accountant"])
        table.stop(["postgres"], number=signal.SIGINT)


def _raw_copy(url: str, *, indexes: bool) -> float:
    """Rows a second of one COPY, its commit included, of the rows that the accountant stored."""
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.cursor().copy("COPY (SELECT * FROM ledger.usage_records) TO STDOUT (FORMAT BINARY)") as copy:
            data = [bytes(part) for part in copy]
        connection.execute("CHECKPOINT")
        connection.execute("DROP TABLE IF EXISTS ledger.raw_copy")
        connection.execute("CREATE TABLE ledger.raw_copy (LIKE ledger.usage_records)")
        if indexes:
            for definition in _INDEXES:
                connection.execute(definition)
        started = time.perf_counter()
        with connection.cursor().copy("COPY ledger.raw_copy FROM STDIN (FORMAT BINARY)") as copy:
            for part in data:
                copy.write(part)
        seconds = time.perf_counter() - started
        row = connection.execute("SELECT count(*) FROM ledger.raw_copy").fetchone()
    return (row[0] if row else 0) / seconds


def _postgres_pids(postmaster: int) -> list[int]:
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return [postmaster, *(int(child) for child in children)]


@contextlib.asynccontextmanager
async def _channels(ca: DevelopmentCa, target: str) -> AsyncIterator[tuple[grpc.aio.Channel, grpc.aio.Channel]]:
    gateway, registry = Channels(ca.service("gateway")), Channels(ca.service("registry"))
    try:
        as_gateway = gateway.service("accountant", target)
        stub: rpc.AccountantServiceAsyncStub = rpc.AccountantServiceStub(as_gateway)
        # Up once it answers from the database.
        await stub.ListUsageRecords(pb.ListUsageRecordsRequest(page_size=1), timeout=30, wait_for_ready=True)
        yield as_gateway, registry.service("accountant", target)
    finally:
        await gateway.close()
        await registry.close()


async def measure(*, records: int, witnesses: bool) -> Result:
    """Starts everything, sends `records` records, stops everything."""
    key = os.urandom(32)
    load = _load(records, witnesses=witnesses, sealer=Sealer(key))
    with tempfile.TemporaryDirectory(prefix="cl-bench-") as folder:
        Path(folder).chmod(0o711)
        run_dir = RunDir(Path(folder) / "run")
        run_dir.make()
        ca = DevelopmentCa(Path(folder) / "ca")
        with _servers(run_dir, ca, base64.b64encode(key).decode()) as (table, target, url):
            async with _channels(ca, target) as (as_gateway, as_registry):
                accountant, postmaster = table.pid("accountant"), table.pid("postgres")
                assert accountant is not None
                assert postmaster is not None
                postgres = _postgres_pids(postmaster)
                before = (cpu_s(accountant), sum(map(cpu_s, postgres)), time.process_time())
                started = time.perf_counter()
                witnessing = asyncio.create_task(_send_witnesses(as_registry, load.witnesses))
                stored = sum(await asyncio.gather(*(_send_stream(as_gateway, part) for part in load.streams)))
                seconds = time.perf_counter() - started
                witnessed = await witnessing
                witness_seconds = time.perf_counter() - started
                # Backends that were started meanwhile count too.
                after = (cpu_s(accountant), sum(map(cpu_s, _postgres_pids(postmaster))), time.process_time())
            with psycopg.connect(url) as connection:
                row = connection.execute("SELECT count(*) FROM ledger.usage_records").fetchone()
            raw_per_s, bare_per_s = (_raw_copy(url, indexes=indexes) for indexes in (True, False))
    used = [1e6 * (late - early) / records for early, late in zip(before, after, strict=True)]
    return Result(
        records=stored,
        seconds=round(seconds, 2),
        records_per_s=round(stored / seconds),
        budget_records_per_s=BUDGET_RECORDS_PER_S,
        with_witnesses=witnesses,
        witnesses_per_s=round(witnessed / witness_seconds),
        accountant_cpu_us_per_record=round(used[0], 1),
        postgres_cpu_us_per_record=round(used[1], 1),
        client_cpu_us_per_record=round(used[2], 1),
        rows_in_ledger=row[0] if row else 0,
        raw_copy_rows_per_s=round(raw_per_s),
        bare_copy_rows_per_s=round(bare_per_s),
        of_raw_copy=round(stored / seconds / raw_per_s, 3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--witnesses", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(asdict(asyncio.run(measure(records=arguments.records, witnesses=arguments.witnesses))), indent=1))


if __name__ == "__main__":
    main()

"""How each figure is measured."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks import accountant_records, picks_client
from benchmarks.admission_rows import measure_admission
from benchmarks.autoscale_rows import autoscale
from benchmarks.load import WholeLoad, module_output, streams, whole_requests
from benchmarks.measure import rss_bytes
from benchmarks.pick_rows import strategies
from benchmarks.resolve_keys import resolve_keys
from benchmarks.stack import BenchError, Stack, empty_stack
from benchmarks.table import Budget, Figure
from benchmarks.usage_month import usage_month
from benchmarks.weights_rows import measure_weights

NODES = 1000


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long to measure, in seconds, and how much where a number is asked for."""

    warm_up_s: float
    whole_s: float
    streams_s: float
    picks_s: float
    rounds: int
    round_s: float
    records: int
    memory_requests: int
    replayed: int
    month_records: int
    resolves: int
    autoscaled_h: float
    weights_bytes: int


FULL_LENGTHS = Lengths(2.0, 10.0, 8.0, 5.0, 5, 2.0, 200_000, 100_000, 40_000, 1_000_000, 4_000, 24.0, 2**30)
QUICK_LENGTHS = Lengths(1.0, 3.0, 2.0, 2.0, 2, 1.0, 40_000, 5_000, 6_000, 100_000, 1_000, 6.0, 2**27)

SuiteRow = Callable[[Stack, Lengths], Awaitable[list[Figure]]]


async def gateway_request(stack: Stack, lengths: Lengths) -> list[Figure]:
    """Requests that do not stream, 64 in flight."""
    await whole_requests(stack, connections=64, seconds=lengths.warm_up_s)
    seen = sound(await whole_requests(stack, connections=64, seconds=lengths.whole_s))
    detail = {
        "requests": seen.requests,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "other_core_busy": round(seen.other_core_busy, 3),
        "tool": seen.tool,
    }
    if seen.other_core_busy > 0.97 and seen.per_s < 0.95e6 / seen.cpu_us:
        stack.notes.append("requests/s: the other core was full, not the gateway's")
    return [
        Figure("gateway CPU, request, 64 in flight", seen.cpu_us, "µs", Budget(120), detail),
        Figure("gateway requests", seen.per_s, "1/s", Budget(8000, at_most=False), detail),
        Figure("gateway requests, were its core full", 1e6 / seen.cpu_us, "1/s", None, detail),
    ]


async def gateway_admission(stack: Stack, lengths: Lengths) -> list[Figure]:
    """What admission adds to a request."""
    return await measure_admission(stack, seconds=lengths.round_s * 2, rounds=lengths.rounds)


async def gateway_latency(stack: Stack, lengths: Lengths) -> list[Figure]:
    """What the gateway adds to an engine that takes 20 ms, 8 in flight."""

    async def shares_ms(to: str) -> Mapping[str, float]:
        seen = sound(await whole_requests(stack, connections=8, seconds=lengths.round_s, to=to, think_us=20_000))
        return {"p50": seen.p50_ms, "p99": seen.p99_ms}

    with stack.undisturbed():
        return await _added("added latency, engine 20 ms, 8 in flight", shares_ms, lengths, None)


async def gateway_streams(stack: Stack, lengths: Lengths) -> list[Figure]:
    """Gateway CPU for each token of a stream."""
    figures: list[Figure] = []
    # Long answers, so that what counts is tokens and not the opening of streams.
    for name, connections, limit, lock in (
        ("16 streams, 10 ms, in step", 16, 31, 1),
        ("16 streams, 10 ms, each at its own time", 16, 31, 0),
        ("256 streams, 10 ms, in step", 256, 15, 1),
        ("256 streams, 10 ms, each at its own time", 256, 15, 0),
    ):
        seen = await streams(
            stack,
            connections=connections,
            seconds=lengths.streams_s,
            warm_up_s=1.5,
            tokens=4000,
            pace_us=10_000,
            lock=lock,
        )
        figures.append(_chunk_figure(f"gateway CPU, chunk, {name}", seen, Budget(limit)))
        note_thin(stack, name, seen, connections * 100)
    for name, size, budget in (
        ("8 streams, 16 tokens a read", 16, Budget(6)),
        ("8 streams, 1 token a read", 1, None),
    ):
        seen = await streams(
            stack, connections=8, seconds=lengths.streams_s / 2, warm_up_s=1.0, tokens=2000, pace_us=0, burst=size
        )
        figures.append(_chunk_figure(f"gateway CPU, chunk, burst, {name}", seen, budget))
    return figures


async def gateway_first_token(stack: Stack, lengths: Lengths) -> list[Figure]:
    """Time to the first token at low load: 4 clients, the engine thinks for 20 ms."""

    async def shares_ms(to: str) -> Mapping[str, float]:
        seen = await streams(
            stack,
            connections=4,
            seconds=lengths.round_s,
            warm_up_s=0.3,
            to=to,
            pause_s=0.01,
            tokens=8,
            pace_us=5_000,
            lock=0,
            think_us=20_000,
        )
        no_errors(seen)
        # On a busy machine p10 shows what the way itself takes.
        return {share: seen["first_byte_ms"][share] for share in ("p10", "p50", "p99")}

    with stack.undisturbed():
        return await _added("added time to first token", shares_ms, lengths, Budget(1))


async def _added(
    name: str, shares_ms: Callable[[str], Awaitable[Mapping[str, float]]], lengths: Lengths, budget: Budget | None
) -> list[Figure]:
    """What the gateway adds to each share. Engine and gateway take turns, so that a slow spell strikes both."""
    await shares_ms("gateway")
    rounds = [(await shares_ms("engine"), await shares_ms("gateway")) for _ in range(lengths.rounds)]
    detail = {"rounds_ms": [{"engine": alone, "gateway": through} for alone, through in rounds]}
    return [
        Figure(
            f"{name}, {share}",
            median(through[share] - alone[share] for alone, through in rounds),
            "ms",
            budget if share == "p50" else None,
            detail,
        )
        for share in rounds[0][0]
    ]


async def gateway_memory(stack: Stack, lengths: Lengths) -> list[Figure]:
    """Resident memory of the gateway before and after many requests."""
    await whole_requests(stack, connections=64, seconds=lengths.warm_up_s)
    gateway = stack.pid("gateway")
    before = rss_bytes(gateway)
    done = 0
    rate = 2_000.0
    while done < lengths.memory_requests:
        left_s = max(1.0, min(30.0, (lengths.memory_requests - done) / rate))
        seen = sound(await whole_requests(stack, connections=64, seconds=left_s))
        done += seen.requests
        rate = max(seen.per_s, 200.0)
    after = rss_bytes(gateway)
    detail = {"requests": done, "before_bytes": before, "after_bytes": after}
    mb = 1024 * 1024
    return [
        Figure("gateway memory, after its warm-up", before / mb, "MiB", None, detail),
        Figure(f"gateway memory, growth over {done:,} requests", (after - before) / mb, "MiB", Budget(8), detail),
    ]


async def picks(lengths: Lengths) -> list[Figure]:
    """The scheduler alone, on the core that the gateway has otherwise, with a fleet of 1,000 nodes."""
    with empty_stack() as stack:
        teller = stack.service_environ("registry")
        stack.start("registry", "-m", "benchmarks.picks_registry", str(NODES), environ=teller, core=stack.cores.others)
        scheduler = stack.service_environ("scheduler", REGISTRY_TARGET=stack.at("registry"))
        stack.start("scheduler", "-m", "crosslogic_scheduler", environ=scheduler, core=stack.cores.gateway)
        for name in ("registry", "scheduler"):
            await stack.wait_listening(name)
        one = await _pick(stack, lengths, batch=1, messages_in_flight=1, measure_s=1.0)
        many = await _pick(stack, lengths, batch=64, messages_in_flight=4, measure_s=lengths.picks_s)
    cpu_us = many["scheduler_cpu_s"] * 1e6 / many["picks"]
    return [
        Figure(f"picks, {NODES:,} nodes", many["picks"] / many["seconds"], "1/s", Budget(50_000, at_most=False), many),
        Figure("scheduler CPU, pick, 64 a message", cpu_us, "µs", Budget(20), many),
        Figure("pick round trip p50, one at a time", one["round_trip_ms"]["p50"], "ms", None, one),
    ]


async def replayed(lengths: Lengths) -> list[Figure]:
    """The scheduler's decisions on simulated engines: no process, no network."""
    return strategies(lengths.replayed)


async def records(lengths: Lengths) -> list[Figure]:
    """The accountant and PostgreSQL alone, on both cores: records whose acknowledgement has come."""
    seen = await accountant_records.measure(records=lengths.records, witnesses=False)
    detail = asdict(seen)
    return [
        Figure("durable usage records", seen.records_per_s, "1/s", Budget(20_000, at_most=False), detail),
        Figure(
            "durable usage records, of a raw COPY with the same indexes",
            seen.of_raw_copy,
            "times",
            Budget(accountant_records.BUDGET_OF_RAW_COPY, at_most=False),
            detail,
        ),
        Figure("accountant CPU, record", seen.accountant_cpu_us_per_record, "µs", None, detail),
        Figure("PostgreSQL CPU, record", seen.postgres_cpu_us_per_record, "µs", None, detail),
    ]


async def month(lengths: Lengths) -> list[Figure]:
    """PostgreSQL and the accountant's queries: what an organisation used in a month."""
    return await usage_month(lengths.month_records)


async def autoscaled(lengths: Lengths) -> list[Figure]:
    """The autoscaler's decisions on a simulated day, against an oracle's: no process, no network."""
    return autoscale(hours=lengths.autoscaled_h)


async def _pick(
    stack: Stack, lengths: Lengths, *, batch: int, messages_in_flight: int, measure_s: float
) -> dict[str, Any]:
    tls = stack.tls("gateway")
    load = picks_client.PickLoad(
        target=stack.at("scheduler"),
        cert_file=str(tls.cert_file),
        key_file=str(tls.key_file),
        ca_file=str(tls.ca_file),
        scheduler_pid=stack.pid("scheduler"),
        batch=batch,
        messages_in_flight=messages_in_flight,
        warm_up_s=min(1.0, lengths.warm_up_s),
        measure_s=measure_s,
    )
    seen = await module_output("benchmarks.picks_client", picks_client.as_argument(load))
    if seen["errors"]:
        raise BenchError(f"picks failed: {seen['errors']}")
    return seen


def _chunk_figure(name: str, seen: dict[str, Any], budget: Budget | None) -> Figure:
    no_errors(seen)
    return Figure(name, seen["cpu_s"][0] * 1e6 / max(seen["chunks"], 1), "µs", budget, seen)


def note_thin(stack: Stack, name: str, seen: dict[str, Any], asked_per_s: float) -> None:
    """Says so when the load was not what was asked: a chunk costs less when several come late and together."""
    came_per_s = seen["chunks"] / seen["seconds"]
    if came_per_s < 0.9 * asked_per_s:
        stack.notes.append(f"{name}: {came_per_s:,.0f} of {asked_per_s:,.0f} chunks/s came; the other core was full")


async def resolves(lengths: Lengths) -> list[Figure]:
    """Whose a key is, with 150 keys in the database and with 150,000."""
    return await resolve_keys(lengths.resolves)


def no_errors(seen: dict[str, Any]) -> None:
    """Raises BenchError unless every stream went well and something came."""
    if seen["errors"] or not seen["chunks"]:
        raise BenchError(f"{seen['errors']} errors and {seen['chunks']} chunks; first error: {seen['first_error']}")


def sound(seen: WholeLoad) -> WholeLoad:
    """Raises BenchError unless every request went well."""
    if seen.errors:
        raise BenchError(f"{seen.errors} of {seen.requests} requests failed")
    return seen


SUITE_ROWS: Mapping[str, SuiteRow] = {
    "gateway_request": gateway_request,
    "gateway_admission": gateway_admission,
    "gateway_latency": gateway_latency,
    "gateway_streams": gateway_streams,
    "gateway_first_token": gateway_first_token,
    "gateway_memory": gateway_memory,
}


async def weights(lengths: Lengths) -> list[Figure]:
    """Weights from a storage on this machine to the disk, verified, beside a plain client."""
    return await asyncio.to_thread(measure_weights, size_bytes=lengths.weights_bytes, rounds=lengths.rounds)


ALONE_ROWS: Mapping[str, Callable[[Lengths], Awaitable[list[Figure]]]] = {
    "picks": picks,
    "records": records,
    "strategies": replayed,
    "usage_month": month,
    "resolve_keys": resolves,
    "autoscale": autoscaled,
    "weights": weights,
}

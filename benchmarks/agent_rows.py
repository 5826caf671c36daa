"""The same through the real node agent and the simulated engine: `python -m benchmarks --full`.

Agent, engine and load generator share the second core, so requests/s say little here; CPU times do.
"""

from benchmarks.load import streams, whole_requests
from benchmarks.measure import cpu_s
from benchmarks.rows import Lengths, SuiteRow, no_errors, note_thin, sound
from benchmarks.stack import AGENTS, MODEL, PACED_MODEL, Stack
from benchmarks.table import Budget, Figure


async def agent_request(stack: Stack, lengths: Lengths) -> list[Figure]:
    """Requests that do not stream, 64 in flight."""
    await whole_requests(stack, connections=64, seconds=lengths.warm_up_s)
    agent, engine = stack.pid(AGENTS[MODEL]), stack.pid("engine-1")
    before = cpu_s(agent), cpu_s(engine)
    seen = sound(await whole_requests(stack, connections=64, seconds=lengths.whole_s))
    agent_us, engine_us = (
        (cpu_s(pid) - at) * 1e6 / seen.requests for pid, at in zip((agent, engine), before, strict=True)
    )
    detail = {"requests": seen.requests, "p50_ms": seen.p50_ms, "p99_ms": seen.p99_ms}
    return [
        Figure("real agent: gateway CPU, request, 64 in flight", seen.cpu_us, "µs", Budget(120), detail),
        Figure("real agent: agent CPU, request", agent_us, "µs", None, detail),
        Figure("real agent: engine CPU, request", engine_us, "µs", None, detail),
        Figure("real agent: requests", seen.per_s, "1/s", None, detail),
    ]


async def agent_streams(stack: Stack, lengths: Lengths) -> list[Figure]:
    """Paced streams and streams as fast as the engine goes."""
    figures: list[Figure] = []
    for name, model, connections, budget in (
        ("16 streams, 10 ms, in step", PACED_MODEL, 16, Budget(31)),
        ("256 streams, 10 ms, in step", PACED_MODEL, 256, Budget(15)),
        ("burst, 8 streams", MODEL, 8, Budget(6)),
    ):
        agent = AGENTS[model]
        seen = await streams(
            stack,
            connections=connections,
            seconds=lengths.streams_s,
            warm_up_s=1.5,
            model=model,
            tokens=4000,
            watched=("gateway", agent),
        )
        no_errors(seen)
        note_thin(stack, f"real agent, {name}", seen, connections * 100 if model == PACED_MODEL else 0)
        gateway_us, agent_us = (used * 1e6 / seen["chunks"] for used in seen["cpu_s"])
        figures += [
            Figure(f"real agent: gateway CPU, chunk, {name}", gateway_us, "µs", budget, seen),
            Figure(f"real agent: agent CPU, chunk, {name}", agent_us, "µs", None, seen),
        ]
    return figures


AGENT_ROWS: dict[str, SuiteRow] = {"agent_request": agent_request, "agent_streams": agent_streams}

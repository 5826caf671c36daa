"""Runs a load in a process of its own: wrk where it is installed and fits, else our own generator."""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import loadgen
from benchmarks.measure import busy_share, core_times, cpu_s
from benchmarks.stack import MODEL, ROOT, BenchError, Stack
from crosslogic_dev.ports import HOST

PATH = "/v1/chat/completions"
PROMPT = "Say something about the sea, the wind and the light of the evening, in a few plain words. " * 2


@dataclass(frozen=True, slots=True)
class WholeLoad:
    """What came of requests that do not stream."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float
    gateway_cpu_s: float
    other_core_busy: float
    """Share of the other core's time that was used, 0 to 1."""
    tool: str

    @property
    def cpu_us(self) -> float:
        """Of the gateway, a request."""
        return self.gateway_cpu_s * 1e6 / max(self.requests, 1)

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def body(model: str, *, stream: bool, **profile: int) -> str:
    """A request for the canned engine. `profile` holds fields of canned_engine.Profile."""
    words = " ".join(f"{name}={value}" for name, value in profile.items())
    request: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": profile.get("tokens", 16),
        "temperature": 0.7,
        "user": f"bench {words}",
    }
    if stream:
        request["stream"] = True
    # The canned engine looks for `"stream":true` and tolerates a space after `user` only.
    return json.dumps(request, separators=(",", ":"))


async def whole_requests(
    stack: Stack, *, connections: int, seconds: float, to: str = "gateway", model: str = MODEL, **profile: int
) -> WholeLoad:
    """Requests that do not stream, from `connections` at a time, to the gateway or straight to the engine."""
    payload = body(model, stream=False, **profile)
    if shutil.which("wrk") is None:
        return await _whole_by_loadgen(stack, payload, connections=connections, seconds=seconds, to=to)
    environ = {"PATH": os.environ["PATH"], "BENCH_BODY": payload, "BENCH_KEY": stack.api_key}
    script = str(ROOT / "benchmarks" / "post.lua")
    url = f"http://{HOST}:{stack.port(to)}{PATH}"
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", script, url]
    gateway = stack.pid(to if to.startswith("gateway") else "gateway")
    cpu_before, core_before = cpu_s(gateway), core_times(stack.cores.others or 0)
    out = await _output(argv, environ)
    cpu_used = cpu_s(gateway) - cpu_before
    busy = busy_share(core_before, core_times(stack.cores.others or 0))
    line = next((line for line in out.splitlines() if line.startswith("RESULT ")), "")
    if not line:
        raise BenchError(f"wrk said: {out}")
    seen = json.loads(line.removeprefix("RESULT "))
    return WholeLoad(
        seen["requests"], seen["seconds"], seen["errors"], seen["p50_ms"], seen["p99_ms"], cpu_used, busy, "wrk"
    )


async def _whole_by_loadgen(stack: Stack, payload: str, *, connections: int, seconds: float, to: str) -> WholeLoad:
    core_before = core_times(stack.cores.others or 0)
    seen = await _loadgen(
        stack,
        payload,
        connections=connections,
        seconds=seconds,
        to=to,
        stream=False,
        warm_up_s=0.5,
        watched=(to if to.startswith("gateway") else "gateway",),
    )
    return WholeLoad(
        seen["requests"],
        seen["seconds"],
        seen["errors"],
        seen["latency_ms"]["p50"],
        seen["latency_ms"]["p99"],
        seen["cpu_s"][0],
        busy_share(core_before, core_times(stack.cores.others or 0)),
        "loadgen",
    )


async def streams(
    stack: Stack,
    *,
    connections: int,
    seconds: float,
    to: str = "gateway",
    warm_up_s: float = 1.0,
    pause_s: float = 0.0,
    model: str = MODEL,
    watched: Sequence[str] = ("gateway",),
    **profile: int,
) -> dict[str, Any]:
    """Streamed requests; the answer is loadgen's report, with the CPU time of the `watched` processes."""
    return await _loadgen(
        stack,
        body(model, stream=True, **profile),
        connections=connections,
        seconds=seconds,
        to=to,
        stream=True,
        warm_up_s=warm_up_s,
        pause_s=pause_s,
        watched=watched,
    )


async def _loadgen(
    stack: Stack,
    payload: str,
    *,
    connections: int,
    seconds: float,
    to: str,
    stream: bool,
    warm_up_s: float,
    pause_s: float = 0.0,
    watched: Sequence[str] = ("gateway",),
) -> dict[str, Any]:
    load = loadgen.Load(
        host=HOST,
        port=stack.port(to),
        path=PATH,
        body=payload,
        headers={"authorization": f"Bearer {stack.api_key}"},
        connections=connections,
        warm_up_s=warm_up_s,
        measure_s=seconds,
        stream=stream,
        pause_s=pause_s,
        watched_pids=tuple(stack.pid(name) for name in watched),
    )
    return await module_output("benchmarks.loadgen", loadgen.as_argument(load))


async def module_output(module: str, argument: str) -> dict[str, Any]:
    """Runs one of our modules and returns the JSON object that it prints last."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    out = await _output([sys.executable, "-m", module, argument], environ)
    try:
        seen = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        raise BenchError(f"{module} said: {out}") from None
    return dict(seen)


async def _output(argv: list[str], environ: dict[str, str]) -> str:
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *argv, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 120.0)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise BenchError(
            f"{argv[0]} ended with {process.returncode} after {time.monotonic() - began:.0f} s: {out.decode()}"
        )
    return out.decode()

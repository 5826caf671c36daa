"""A load generator that is cheap: raw sockets, kept-alive connections, the least parsing that still counts right.

`python -m benchmarks.loadgen '<json of Load>'` prints one JSON object. It runs as a process of its own, since it shares
a core with everything that is not measured.
"""

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

from benchmarks.measure import cpu_s, percentile

_EVENT = b"data: "
_STREAM_END = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent."""

    host: str
    port: int
    path: str
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)
    connections: int
    warm_up_s: float = 1.0
    """Before anything counts."""
    measure_s: float = 5.0
    stream: bool = False
    pause_s: float = 0.0
    """Between an answer's end and the connection's next request."""
    watched_pids: tuple[int, ...] = ()
    """Processes whose CPU time over the measured seconds is wanted."""

    def request(self) -> bytes:
        """The same bytes for every request."""
        body = self.body.encode()
        lines = [f"POST {self.path} HTTP/1.1", f"host: {self.host}:{self.port}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines.append(f"content-length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(slots=True)
class Tally:
    """What came back while it counted. Times in seconds."""

    counting: bool = False
    requests: int = 0
    chunks: int = 0
    reads: int = 0
    errors: int = 0
    first_error: str = ""
    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


class Client(asyncio.Protocol):
    """One connection: sends, counts the answer, sends again."""

    def __init__(self, load: Load, tally: Tally) -> None:
        self._request = load.request()
        self._streams = load.stream
        self._pause_s = load.pause_s
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._in_body = False
        self._left = 0
        self._tail = b""
        self._sent_at = 0.0
        self._last_at = 0.0
        self.closed = self._loop.create_future()
        self.stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.stopping:
            self._fail(f"connection lost: {exc}")
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        tally = self._tally
        if not self._in_body:
            self._head += data
            head, separator, data = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._begin_body(head)
            if not data:
                return
        if not self._streams:
            self._left -= len(data)
            if self._left <= 0:
                self._finish(now)
            return
        count = data.count(_EVENT)
        if tally.counting:
            tally.reads += 1
            if not self._last_at:
                tally.first_bytes.append(now - self._sent_at)
            else:
                tally.gaps.append(now - self._last_at)
            tally.chunks += count
        self._last_at = now
        # The end may come in two reads.
        self._tail = data[-7:] if len(data) >= 7 else (self._tail + data)[-7:]
        if self._tail == _STREAM_END:
            if tally.counting:
                # `[DONE]` is no token.
                tally.chunks -= 1
            self._finish(now)

    def _send(self) -> None:
        if self.stopping or self._transport is None:
            return
        self._head = b""
        self._in_body = False
        self._tail = b""
        self._last_at = 0.0
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def _begin_body(self, head: bytes) -> None:
        self._in_body = True
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail(head.decode(errors="replace").splitlines()[0])
        if self._streams and b"text/event-stream" in head:
            return
        lowered = head.lower()
        at = lowered.find(b"content-length:")
        self._left = int(lowered[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0

    def _finish(self, now: float) -> None:
        if self._tally.counting:
            self._tally.requests += 1
            self._tally.latencies.append(now - self._sent_at)
        if self._pause_s:
            self._loop.call_later(self._pause_s, self._send)
        else:
            self._send()

    def _fail(self, why: str) -> None:
        self._tally.errors += 1
        self._tally.first_error = self._tally.first_error or why
        # An answer that is no stream has no end that we would notice.
        if self._streams and self._transport is not None:
            self.stopping = True
            self._transport.close()

    def stop(self) -> None:
        self.stopping = True
        if self._transport is not None:
            self._transport.abort()


async def run(load: Load) -> dict[str, object]:
    """Runs the load once."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    clients = [
        (await loop.create_connection(lambda: Client(load, tally), load.host, load.port))[1]
        for _ in range(load.connections)
    ]
    await asyncio.sleep(load.warm_up_s)
    cpu_before = [cpu_s(pid) for pid in load.watched_pids]
    began = time.perf_counter()
    tally.counting = True
    await asyncio.sleep(load.measure_s)
    tally.counting = False
    took_s = time.perf_counter() - began
    cpu_used = [cpu_s(pid) - before for pid, before in zip(load.watched_pids, cpu_before, strict=True)]
    for client in clients:
        client.stop()
    await asyncio.wait([client.closed for client in clients], timeout=5.0)
    return _report(tally, took_s, cpu_used)


def _report(tally: Tally, took_s: float, cpu_used: list[float]) -> dict[str, object]:
    def shares_ms(values: list[float]) -> dict[str, float]:
        ordered = sorted(values)
        return {f"p{share}": percentile(ordered, share / 100) * 1000 for share in (10, 50, 90, 99)}

    return {
        "seconds": took_s,
        "requests": tally.requests,
        "chunks": tally.chunks,
        "reads": tally.reads,
        "errors": tally.errors,
        "first_error": tally.first_error,
        "latency_ms": shares_ms(tally.latencies),
        "first_byte_ms": shares_ms(tally.first_bytes),
        "gap_ms": shares_ms(tally.gaps),
        "cpu_s": cpu_used,
    }


def as_argument(load: Load) -> str:
    """What the process is started with."""
    return json.dumps(asdict(load))


def main() -> None:
    """The process."""
    plan = json.loads(sys.argv[1])
    plan["watched_pids"] = tuple(plan.get("watched_pids", ()))
    print(json.dumps(uvloop.run(run(Load(**plan)))))


if __name__ == "__main__":
    main()

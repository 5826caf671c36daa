"""A relay without its network: the session on one side, frames in and out on the other."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.metrics import Metrics
from crosslogic_node_agent.assembly import AnswerTemplates
from crosslogic_node_agent.continuation import unpacked
from crosslogic_node_agent.dialect import Dialect
from crosslogic_node_agent.domain import Ending, EngineAddress, TokenCount
from crosslogic_node_agent.engine_connection import Dialer, EnginePool
from crosslogic_node_agent.metrics import AgentMetrics
from crosslogic_node_agent.relay import Relay
from crosslogic_node_agent.relay_session import RelaySession

MODEL = "catalogue-model"


class KeptWitnesses:
    def __init__(self) -> None:
        self.kept: list[tuple[bytes, TokenCount, Ending, int]] = []

    def record(self, sealed_context: bytes, count: TokenCount, ending: Ending, duration_us: int) -> None:
        self.kept.append((sealed_context, count, ending, duration_us))


class OneModel:
    def __init__(self, engine_model: str) -> None:
        self._engine_model = engine_model

    def engine_model(self, model: str) -> str | None:
        return self._engine_model if model == MODEL else None


@dataclass
class Received:
    """What came back for one call."""

    frames: list[pb.RelayResponseFrame] = field(default_factory=list)
    first: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def data(self) -> bytes:
        return b"".join(frame.data for frame in self.frames)

    @property
    def end(self) -> pb.RelayEnd:
        return self.frames[-1].end

    @property
    def head(self) -> pb.RelayHead:
        return self.frames[0].head

    def tokens(self) -> list[int]:
        return [token for frame in self.frames for token in unpacked(frame.ids)]

    def events(self) -> list[dict[str, Any]]:
        lines = [event.partition(b"data: ")[2] for event in self.data.split(b"\n\n")]
        return [msgspec.json.decode(line) for line in lines if line and line != b"[DONE]"]


class Gateway:
    """The gateway's end."""

    def __init__(self) -> None:
        self._out: asyncio.Queue[pb.RelayRequest | None] = asyncio.Queue()
        self.calls: dict[int, Received] = {}
        self._next = 1
        self.messages = 0
        self.reading = asyncio.Event()
        self.reading.set()

    async def messages_out(self) -> AsyncIterator[pb.RelayRequest]:
        while (message := await self._out.get()) is not None:
            yield message

    async def take(self, message: pb.RelayResponse) -> None:
        await self.reading.wait()
        self.messages += 1
        for frame in message.frames:
            received = self.calls[frame.call_id]
            received.frames.append(frame)
            received.first.set()
            if frame.HasField("end"):
                received.ended.set()

    def open(self, body: dict[str, Any] | bytes, *, request_id: str = "", **fields: Any) -> tuple[int, Received]:
        call_id = self._next
        self._next += 1
        self.calls[call_id] = Received()
        request = relay_open(body, request_id=request_id, **fields)
        self.send(pb.RelayRequestFrame(call_id=call_id, open=request))
        return call_id, self.calls[call_id]

    def cancel(self, call_id: int) -> None:
        self.send(pb.RelayRequestFrame(call_id=call_id, cancel=True))

    def credit(self, call_id: int, byte_count: int) -> None:
        self.send(pb.RelayRequestFrame(call_id=call_id, credit_bytes=byte_count))

    def send(self, *frames: pb.RelayRequestFrame) -> None:
        self._out.put_nowait(pb.RelayRequest(frames=frames))

    def leave(self) -> None:
        self._out.put_nowait(None)


def relay_open(body: dict[str, Any] | bytes, *, request_id: str = "", **fields: Any) -> pb.RelayOpen:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    given: dict[str, Any] = {
        "api": pb.ENGINE_API_COMPLETIONS,
        "model": MODEL,
        "sealed_context": b"sealed",
        "first_byte_timeout_ms": 10_000,
        "idle_timeout_ms": 10_000,
        "cache_salt": "salt",
    }
    given |= fields
    return pb.RelayOpen(body=raw, request_id=request_id or str(uuid.uuid4()), **given)


@dataclass
class Bench:
    gateway: Gateway
    relay: Relay
    witnesses: KeptWitnesses
    session: asyncio.Task[None]
    stopping: asyncio.Event


@contextlib.asynccontextmanager
async def bench(
    *,
    port: int = 0,
    dialer: Dialer | None = None,
    dialect: Dialect | None = None,
    engine_model: str = "engine-model",
    max_calls: int = 1024,
    templates: AnswerTemplates | None = None,
    org_id: str = "",
) -> AsyncIterator[Bench]:
    """A session with a gateway, in front of an engine at `port`, or of whatever `dialer` leads to."""
    pool = EnginePool(dialer or EngineAddress(host="127.0.0.1", port=port))
    witnesses = KeptWitnesses()
    relay = Relay(
        pool=pool,
        models=OneModel(engine_model),
        templates=templates,
        dialect=dialect,
        witnesses=witnesses,
        metrics=AgentMetrics(Metrics()),
        max_calls=max_calls,
        org_id=org_id,
    )
    gateway = Gateway()
    stopping = asyncio.Event()
    session = asyncio.create_task(RelaySession(relay).run(gateway.messages_out(), gateway.take, stopping))
    try:
        yield Bench(gateway, relay, witnesses, session, stopping)
    finally:
        gateway.leave()
        gateway.reading.set()
        await asyncio.gather(session, return_exceptions=True)
        pool.close()

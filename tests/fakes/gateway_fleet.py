"""A gateway's relaying part between a real client and nodes that a test plays: no engine, no scheduler, no ledger."""

import asyncio
import base64
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import grpc.aio
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.seal import Sealer
from crosslogic_gateway.admission.ticket import FreeTicket
from crosslogic_gateway.attempts import Api, Attempts, Job
from crosslogic_gateway.body import parse_body
from crosslogic_gateway.domain import Model, Principal, Route
from crosslogic_gateway.failover import FailoverPolicy
from crosslogic_gateway.http import RECEIVED_AT, REQUEST_ID, SHOWN_REQUEST_ID, error_response
from crosslogic_gateway.prices import Prices
from crosslogic_gateway.relay import RelayPool, Timeouts
from crosslogic_gateway.serving_metrics import ServingMetrics
from crosslogic_gateway.shedding.overload import Decide

CHAT = Api("/v1/chat/completions", pb.ENGINE_API_CHAT_COMPLETIONS)
OPENING = b'{"id":"x"}'
PROMPT_IDS = b"\1\0\0\0\2\0\0\0"
FINAL = common_pb.COUNT_SOURCE_ENGINE_FINAL


def usage(completion_tokens: int) -> common_pb.TokenUsage:
    return common_pb.TokenUsage(prompt_tokens=2, completion_tokens=completion_tokens, source=FINAL)


class Node:
    """One node, spoken for by the test."""

    def __init__(self, name: str) -> None:
        self.route = Route(name, "127.0.0.1:1", "local")
        self.opened: list[tuple[int, pb.RelayOpen]] = []
        self.told: list[pb.RelayRequestFrame] = []
        self.up = True
        self._out: asyncio.Queue[object] = asyncio.Queue()
        self._arrived = asyncio.Event()

    async def wait_for_connection(self) -> None:
        if not self.up:
            raise CodedError(ErrorCode.UNAVAILABLE, private="connection refused")

    async def write(self, request: bytes) -> None:
        for frame in pb.RelayRequest.FromString(request).frames:
            if frame.HasField("open"):
                self.opened.append((frame.call_id, frame.open))
                self._arrived.set()
            else:
                self.told.append(frame)

    async def read(self) -> object:
        return await self._out.get()

    def cancel(self) -> bool:
        self._out = asyncio.Queue()
        return True

    async def call(self, number: int = 1) -> tuple[int, pb.RelayOpen]:
        """The `number`-th call, once it is there."""
        async with asyncio.timeout(5):
            while len(self.opened) < number:
                self._arrived.clear()
                await self._arrived.wait()
        return self.opened[number - 1]

    def say(self, call_id: int, **fields: Any) -> None:
        self._out.put_nowait(pb.RelayResponse(frames=[pb.RelayResponseFrame(call_id=call_id, **fields)]))

    def begin(self, call_id: int, data: bytes = b"", *, tokens: int = 0, **fields: Any) -> None:
        """The head and the first bytes of a stream that can be resumed."""
        head = pb.RelayHead(status=200, content_type="text/event-stream", prompt_ids=PROMPT_IDS, stream_opening=OPENING)
        self.say(call_id, head=head, data=data, completion_tokens=tokens, ids=bytes(4 * tokens), **fields)

    def end(self, call_id: int, *, tokens: int, **fields: Any) -> None:
        self.say(call_id, end=pb.RelayEnd(outcome=common_pb.OUTCOME_SUCCEEDED, usage=usage(tokens)), **fields)

    def fail(self, call_id: int, code: ErrorCode, **fields: Any) -> None:
        error = common_pb.CallError(code=code, message="it failed")
        self.say(call_id, end=pb.RelayEnd(outcome=common_pb.OUTCOME_FAILED, error=error), **fields)

    def answer(self, call_id: int, status: int, body: bytes = b"{}", *, tokens: int = 1) -> None:
        """A whole answer of the engine's."""
        error = None if status < 400 else common_pb.CallError(code=ErrorCode.ENGINE_ERROR)
        outcome = common_pb.OUTCOME_FAILED if error else common_pb.OUTCOME_SUCCEEDED
        head = pb.RelayHead(status=status, content_type="application/json")
        self.say(call_id, head=head, data=body, end=pb.RelayEnd(outcome=outcome, usage=usage(tokens), error=error))

    def die(self) -> None:
        self.up = False
        self._out.put_nowait(grpc.aio.EOF)


@dataclass
class Reports:
    """What was told of nodes."""

    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def succeeded(self, node_id: str, first_byte_s: float) -> None:
        self.good.append(node_id)

    def failed(self, node_id: str) -> None:
        self.bad.append(node_id)


@dataclass
class Picks:
    """Picks the first node in order that is not excluded."""

    nodes: list[Node]
    reports: Reports = field(default_factory=Reports)
    excluded: list[tuple[str, ...]] = field(default_factory=list)
    versions: list[str | None] = field(default_factory=list)
    """Of the streams that were to go on."""
    wait: Callable[[], Any] | None = None

    async def pick(self, *, excluded: tuple[str, ...] = (), version: str | None = None, **_: Any) -> Route:
        self.excluded.append(excluded)
        self.versions.append(version)
        if self.wait is not None:
            await self.wait()
        for node in self.nodes:
            if node.route.node_id not in excluded and version in (None, node.route.version):
                return node.route
        raise CodedError(ErrorCode.NO_CAPACITY)


class Kept:
    """Usage records."""

    def __init__(self) -> None:
        self.records: list[accountant_pb.UsageRecord] = []

    def record(self, serialised: bytes) -> None:
        self.records.append(accountant_pb.UsageRecord.FromString(serialised))


@dataclass
class Fleet:
    """The whole of it."""

    nodes: list[Node]
    picks: Picks
    kept: Kept
    attempts: Attempts
    url: str
    client: aiohttp.ClientSession
    registry: CollectorRegistry
    decide: Decide | None = None
    """How the admission of the next requests ends. None: they are let in already."""

    async def post(self, *, stream: bool) -> aiohttp.ClientResponse:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        return await self.client.post(self.url, json=body)

    async def record(self) -> accountant_pb.UsageRecord:
        """The one record, once it is there."""
        async with asyncio.timeout(5):
            while not self.kept.records:
                await asyncio.sleep(0.005)
        (only,) = self.kept.records
        return only


@contextlib.asynccontextmanager
async def fleet(
    nodes: int = 3,
    *,
    policy: FailoverPolicy | None = None,
    timeouts: Timeouts | None = None,
    hedged_models: frozenset[str] = frozenset(),
) -> AsyncIterator[Fleet]:
    """A gateway in front of nodes named `node-1`, `node-2`, ..."""
    played = [Node(f"node-{number}") for number in range(1, nodes + 1)]
    by_name = {node.route.node_id: node for node in played}
    picks, kept = Picks(played), Kept()
    timeouts = timeouts or Timeouts()
    registry = CollectorRegistry()
    relays = RelayPool(open_relay=lambda route: by_name[route.node_id], timeouts=timeouts)
    attempts = Attempts(
        picker=cast("Any", picks),
        prices=Prices(),
        relays=relays,
        usage=cast("Any", kept),
        sealer=Sealer.from_base64(base64.b64encode(bytes(32)).decode()),
        timeouts=timeouts,
        serving=ServingMetrics(registry),
        policy=policy,
        hedged_models=hedged_models,
    )
    numbers = itertools.count(1)
    played_fleet: list[Fleet] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        request[RECEIVED_AT] = asyncio.get_running_loop().time()
        request[REQUEST_ID] = request[SHOWN_REQUEST_ID] = f"request-{next(numbers)}"
        raw = await request.read()
        principal = Principal("org", "environment", "key", "", None, "salt", None)
        model = Model("m", "f", 4096, 3, 5, frozenset(), 0)
        job = Job(request, CHAT, principal, model, parse_body(1, raw), raw, FreeTicket(), decide=played_fleet[0].decide)
        try:
            return await attempts.run(job)
        except CodedError as error:
            return error_response(request, error)

    app = web.Application()
    app.router.add_post("/", handle)
    server = TestServer(app)
    async with relays.running():
        await server.start_server()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
            played_fleet.append(Fleet(played, picks, kept, attempts, str(server.make_url("/")), client, registry))
            yield played_fleet[0]
        await server.close()


def decoded(raw: bytes) -> Any:
    return msgspec.json.decode(raw)

"""The gateway's end of the relay: one stream a node, all calls on it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.batched import BatchLink
from crosslogic_common.batched.link import HURRY_AFTER_S, BidiStream
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_common.wire import numbered_message, repeated_messages
from crosslogic_gateway.answers import Answer, StreamedAnswer
from crosslogic_gateway.domain import Route

RelayStream = BidiStream[bytes, agent_pb.RelayResponse]
OpenRelay = Callable[[Route], RelayStream]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a call may be silent, in seconds."""

    first_byte_s: float = 60.0
    """Until the engine's first byte."""
    idle_s: float = 60.0
    """Between bytes."""
    stall_s: float = 60.0
    """While the client takes nothing."""
    slack_s: float = 1.0
    """What a node that keeps the same limits may be late by."""
    whole_s: float = 600.0
    """Until an answer that the engine sends whole; meanwhile its node says that it goes on."""


class NodeLink:
    """All calls between this worker and one node."""

    def __init__(self, *, route: Route, open_relay: OpenRelay) -> None:
        """`open_relay` opens the gRPC stream to the node at the route's address."""
        self.route = route
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Answer] = {}
        self._next_call_id = 1
        self._link: BatchLink[bytes, bytes, agent_pb.RelayResponse] = BatchLink(
            name=f"relay {route.node_id}",
            open_stream=lambda: open_relay(self.route),
            encode=repeated_messages,
            on_message=self._on_message,
            on_broken=self._on_broken,
            connect_timeout_s=2.0,
        )
        self.last_used_at = 0.0
        self.last_heard_at = 0.0
        """When its last message came, on the event loop's clock; 0: never."""

    @property
    def idle(self) -> bool:
        """No call is under way."""
        return not self._calls

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return len(self._calls)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the stream open for as long as the block lasts."""
        async with self._link.running():
            yield

    def open(self, request: agent_pb.RelayOpen, answer: Answer) -> int:
        """Starts a call whose frames go to `answer`; returns its id.

        Raises UNAVAILABLE when the node is known to be out of reach, OVERLOADED when too many frames wait for it.
        """
        down = self._link.down
        if down is not None:
            # It was picked, so it may just have come back.
            self._link.hurry()
            raise CodedError(ErrorCode.UNAVAILABLE, private=down.private or down.public)
        call_id = self._next_call_id
        self._next_call_id = call_id + 1
        # A RelayRequestFrame. Made by protobuf, the request would be copied into it first, body and all.
        self._link.send(numbered_message(call_id, request.SerializeToString()))
        self._calls[call_id] = answer
        answer.credit = partial(self._credit, call_id)
        return call_id

    def cancel(self, call_id: int) -> None:
        """Tells the node that the answer is no longer wanted. Its end still comes, with the count."""
        if call_id in self._calls:
            self._send_control(agent_pb.RelayRequestFrame(call_id=call_id, cancel=True))

    async def back(self) -> None:
        """Returns once the node is in reach."""
        while not self._link.connected.is_set():
            self._link.hurry()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HURRY_AFTER_S):
                    await self._link.connected.wait()

    def supersede(self, call_id: int) -> None:
        """Another node does the work: this one is to stop and to bill nothing. Whatever it still says is not heard."""
        if self._calls.pop(call_id, None) is not None:
            with contextlib.suppress(CodedError):
                self._link.send(agent_pb.RelayRequestFrame(call_id=call_id, supersede=True).SerializeToString())

    def _credit(self, call_id: int, byte_count: int) -> None:
        if call_id in self._calls:
            self._send_control(agent_pb.RelayRequestFrame(call_id=call_id, credit_bytes=byte_count))

    def _send_control(self, frame: agent_pb.RelayRequestFrame) -> None:
        try:
            self._link.send(frame.SerializeToString())
        except CodedError as error:
            # The queue is full of frames that the node does not take: it is stuck, and so is this call.
            answer = self._calls.pop(frame.call_id, None)
            if answer is not None:
                answer.fail(error)

    def _on_message(self, message: agent_pb.RelayResponse) -> None:
        calls = self._calls
        now = self.last_heard_at = self._loop.time()
        touched: dict[int, Answer] = {}
        for frame in message.frames:
            call_id = frame.call_id
            answer = calls.get(call_id)
            if answer is None:
                continue
            touched[call_id] = answer
            if answer.on_frame(frame):
                del calls[call_id]
        for answer in touched.values():
            answer.last_frame_at = now
            answer.flush()

    def _on_broken(self, error: CodedError) -> None:
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            answer.fail(CodedError(ErrorCode.ENGINE_UNAVAILABLE, private=error.private or error.public))

    def abort(self, call_id: int, answer: Answer, error: CodedError) -> None:
        """Ends a call for its client's sake: the node is told, and the answer fails with `error`."""
        self.cancel(call_id)
        answer.given_up = True
        answer.fail(error)

    def give_up(self, call_id: int, answer: Answer, error: CodedError) -> None:
        """Ends a call because its node says nothing."""
        self.supersede(call_id)
        answer.silent = True
        answer.fail(error)

    def late_calls(self, now: float, timeouts: Timeouts) -> list[tuple[int, Answer]]:
        """Calls whose node is silent for too long. The node keeps the same limits; this is for one that is stuck."""
        return [
            (call_id, answer)
            for call_id, answer in self._calls.items()
            if not answer.ended
            and now - answer.last_frame_at
            > (timeouts.idle_s if answer.head.done() else timeouts.first_byte_s) + timeouts.slack_s
            and not (isinstance(answer, StreamedAnswer) and answer.stalled())
        ]

    def keep_alive(self, now: float) -> None:
        """Streams that are silent for long get a comment."""
        for answer in self._calls.values():
            if isinstance(answer, StreamedAnswer):
                answer.keep_alive(now)

    def stalled_calls(self) -> list[tuple[int, StreamedAnswer]]:
        """Streams whose client does not take what was sent; lets those go on that have caught up."""
        return [
            (call_id, answer)
            for call_id, answer in self._calls.items()
            if isinstance(answer, StreamedAnswer) and answer.stalled()
        ]


class RelayPool:
    """The links to all nodes that this worker uses. Opened at first use, closed after a while without any."""

    def __init__(
        self,
        *,
        open_relay: OpenRelay,
        timeouts: Timeouts,
        unused_after_s: float = 300.0,
        link_type: type[NodeLink] = NodeLink,
    ) -> None:
        """A link without calls for `unused_after_s` is closed."""
        self._open_relay = open_relay
        self._loop = asyncio.get_running_loop()
        self._link_type = link_type
        self._timeouts = timeouts
        self._unused_after_s = unused_after_s
        self._links: dict[str, NodeLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._log = get_logger(__name__)

    def link(self, route: Route) -> NodeLink:
        """The link to the route's node."""
        link = self._links.get(route.node_id)
        if link is None or link.route.address != route.address:
            link = self._start(route)
        link.last_used_at = self._loop.time()
        return link

    def heard(self) -> list[tuple[str, float]]:
        """Each node with the time at which its last message came; 0: never."""
        return [(node_id, link.last_heard_at) for node_id, link in self._links.items()]

    def in_flight(self) -> dict[str, int]:
        """Calls under way, by node; nodes without any are left out."""
        return {node_id: link.in_flight for node_id, link in self._links.items() if not link.idle}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches for slow readers and unused links for as long as the block lasts; then closes all links."""
        watch = asyncio.create_task(self._watch(), name="relay watch")
        try:
            yield
        finally:
            tasks = [watch, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, route: Route) -> NodeLink:
        old = self._tasks.pop(route.node_id, None)
        if old is not None:
            old.cancel()
        link = self._link_type(route=route, open_relay=self._open_relay)
        self._links[route.node_id] = link
        self._tasks[route.node_id] = asyncio.create_task(self._keep(link), name=f"relay {route.node_id}")
        return link

    @staticmethod
    async def _keep(link: NodeLink) -> None:
        async with link.running():
            await asyncio.Event().wait()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.05)
            now = loop.time()
            for node_id, link in list(self._links.items()):
                self._abort_stalled(link, now)
                link.keep_alive(now)
                for call_id, answer in link.late_calls(now, self._timeouts):
                    link.give_up(call_id, answer, CodedError(ErrorCode.TIMEOUT, private="the node is silent"))
                if link.idle and now - link.last_used_at > self._unused_after_s:
                    del self._links[node_id]
                    self._tasks.pop(node_id).cancel()

    def _abort_stalled(self, link: NodeLink, now: float) -> None:
        for call_id, answer in link.stalled_calls():
            since = max(answer.last_progress_at, answer.first_byte_at)
            if now - since > self._timeouts.stall_s:
                self._log.warning("client takes nothing, stream aborted", stalled_s=round(now - since, 1))
                link.abort(call_id, answer, CodedError(ErrorCode.TIMEOUT, private="the client stopped reading"))

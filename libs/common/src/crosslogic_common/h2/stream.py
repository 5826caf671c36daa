"""One gRPC bidi stream on a connection of its own."""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import grpc
import grpc.aio
from hpack import Decoder
from hpack.exceptions import HPACKError

from crosslogic_common.h2 import frames
from crosslogic_common.h2.frames import Frame, FrameReader, MessageReader, ProtocolError
from crosslogic_common.tls import TlsFiles

In = TypeVar("In")
PING_EVERY_S = 10.0
PONG_WITHIN_S = 5.0
WRITE_HIGH_BYTES = 1024 * 1024
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class H2Target:
    """Where a stream goes and whom it must meet there."""

    address: str
    """host:port."""
    dns_name: str
    """What the server's certificate must name, whatever the address."""
    path: str
    """Full method, for example `/crosslogic.scheduler.v1.SchedulerService/PickStream`."""


class H2Stream(asyncio.Protocol, Generic[In]):
    """A bidi stream whose messages are handed to a callback as they arrive.

    `wait_for_connection` opens it; `write` sends; `cancel` ends it. All errors are grpc.aio.AioRpcError, as those of
    grpc.aio are.
    """

    def __init__(self, *, target: H2Target, tls: TlsFiles, deserialize: Callable[[bytes], In]) -> None:
        self._target = target
        self._tls = tls
        self._deserialize = deserialize
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frames = FrameReader()
        self._messages = MessageReader()
        self._hpack = Decoder()
        self._headers: list[bytes] = []
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._on_message: Callable[[In], None] | None = None
        self._early: deque[In] = deque()
        self._server_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._server_stream_window = frames.DEFAULT_WINDOW_BYTES
        self._stream_window = frames.DEFAULT_WINDOW_BYTES
        self._connection_window = frames.DEFAULT_WINDOW_BYTES
        self._room: asyncio.Future[None] | None = None
        self._paused = False
        self._untaken = 0
        self._ping: asyncio.TimerHandle | None = None
        self._pong_due = False

    async def wait_for_connection(self) -> None:
        """Returns once the server has accepted the stream."""
        host, _, port = self._target.address.rpartition(":")
        try:
            await self._loop.create_connection(
                lambda: self, host.strip("[]"), int(port), ssl=self._context(), server_hostname=self._target.dns_name
            )
        except (OSError, ssl.SSLError, ValueError) as error:
            self._fail(grpc.StatusCode.UNAVAILABLE, f"cannot connect: {error}")
        await self._connected

    def deliver(self, on_message: Callable[[In], None]) -> asyncio.Future[None]:
        """Hands every message to `on_message`, in order; the future ends, or fails, with the stream."""
        self._on_message = on_message
        while self._early:
            on_message(self._early.popleft())
        return self._ended

    async def write(self, message: bytes) -> None:
        """Sends one serialised message. Returns at once unless the server or the socket is full."""
        data = frames.message_head(len(message)) + message
        at = 0
        while at < len(data):
            transport = self._transport
            if transport is None or self._ended.done():
                raise self._error(grpc.StatusCode.UNAVAILABLE, "the stream has ended")
            size = min(len(data) - at, self._server_frame_bytes, self._stream_window, self._connection_window)
            if size <= 0 or self._paused:
                await self._wait_for_room()
                continue
            self._stream_window -= size
            self._connection_window -= size
            transport.write(frames.frame(frames.DATA, 0, frames.STREAM_ID, data[at : at + size]))
            at += size

    async def read(self) -> object:
        """Not used: messages are delivered."""
        raise NotImplementedError("messages are delivered")

    def cancel(self) -> bool:
        """Ends the stream and its connection."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(
                frames.frame(frames.RST_STREAM, 0, frames.STREAM_ID, frames.CANCEL.to_bytes(4, "big"))
            )
        self._fail(grpc.StatusCode.CANCELLED, "cancelled")
        return True

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up: says hello."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._transport.write(frames.opening(authority=self._target.dns_name, path=self._target.path))
        self._ping = self._loop.call_later(PING_EVERY_S, self._keep_alive)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        try:
            for received in self._frames.feed(data):
                if received.kind == frames.DATA:
                    self._on_data(received)
                else:
                    self._on_control(received)
            self._allow_more()
        except (ProtocolError, HPACKError) as error:
            self._fail(grpc.StatusCode.INTERNAL, f"the server broke the protocol: {error}")

    def eof_received(self) -> None:
        """The server closed."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._transport = None
        self._fail(grpc.StatusCode.UNAVAILABLE, f"connection lost: {exc or 'closed by the server'}")

    def pause_writing(self) -> None:
        """The socket is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._paused = False
        self._make_room()

    # Frames

    def _on_data(self, received: Frame) -> None:
        if received.stream_id != frames.STREAM_ID:
            raise ProtocolError(f"data of stream {received.stream_id}")
        self._untaken += len(received.payload)
        deliver = self._on_message
        for message in self._messages.feed(frames.unpadded(received)):
            decoded = self._deserialize(message)
            if deliver is None:
                self._early.append(decoded)
            else:
                deliver(decoded)
        if received.flags & frames.END_STREAM:
            raise ProtocolError("an end without trailers")

    def _on_control(self, received: Frame) -> None:
        kind = received.kind
        if kind == frames.WINDOW_UPDATE:
            self._on_window_update(received)
        elif kind == frames.PING:
            if received.flags & frames.ACK:
                self._pong_due = False
            else:
                self._send(frames.frame(frames.PING, frames.ACK, 0, received.payload))
        elif kind == frames.SETTINGS:
            if not received.flags & frames.ACK:
                self._on_settings(received)
        elif kind in (frames.HEADERS, frames.CONTINUATION):
            self._on_headers(received)
        elif kind == frames.RST_STREAM:
            self._fail(grpc.StatusCode.UNAVAILABLE, "the server reset the stream")
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError("a push that was not allowed")
        # GOAWAY lets the stream finish: its end is what counts. Other kinds are ignored (RFC 9113, 5.5).

    def _on_window_update(self, received: Frame) -> None:
        increment = int.from_bytes(received.payload, "big") & frames.MAX_WINDOW_BYTES
        if received.stream_id == 0:
            self._connection_window += increment
        else:
            self._stream_window += increment
        if max(self._connection_window, self._stream_window) > frames.MAX_WINDOW_BYTES:
            raise ProtocolError("a window larger than 2^31-1")
        self._make_room()

    def _on_settings(self, received: Frame) -> None:
        for name, value in frames.read_settings(received.payload):
            if name == frames.SETTINGS_INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._server_stream_window
                self._server_stream_window = value
            elif name == frames.SETTINGS_MAX_FRAME_SIZE:
                self._server_frame_bytes = value
        self._send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._make_room()

    def _on_headers(self, received: Frame) -> None:
        self._headers.append(frames.unpadded(received) if received.kind == frames.HEADERS else received.payload)
        if sum(map(len, self._headers)) > frames.OUR_FRAME_BYTES:
            raise ProtocolError("headers larger than 1 MiB")
        if not received.flags & frames.END_HEADERS:
            return
        block, self._headers = b"".join(self._headers), []
        headers = {_as_text(name): _as_text(value) for name, value in self._hpack.decode(block, raw=True)}
        if "grpc-status" in headers:
            self._on_trailers(headers)
        elif headers.get(":status") != "200":
            self._fail(grpc.StatusCode.UNAVAILABLE, f"HTTP status {headers.get(':status')}")
        elif not self._connected.done():
            self._connected.set_result(None)

    def _on_trailers(self, headers: Mapping[str, str]) -> None:
        code = headers["grpc-status"]
        status = _STATUS.get(int(code), grpc.StatusCode.UNKNOWN) if code.isdigit() else grpc.StatusCode.UNKNOWN
        if status is grpc.StatusCode.OK:
            status, text = grpc.StatusCode.UNAVAILABLE, "the server ended the stream"
        else:
            text = headers.get("grpc-message", "")
        metadata = grpc.aio.Metadata(
            *((name, value) for name, value in headers.items() if name.startswith("crosslogic-"))
        )
        self._fail(status, text, metadata)

    # Flow and life

    def _allow_more(self) -> None:
        if self._untaken >= frames.OUR_WINDOW_BYTES // 4:
            self._send(frames.window_update(0, self._untaken) + frames.window_update(frames.STREAM_ID, self._untaken))
            self._untaken = 0

    async def _wait_for_room(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()
        await self._room

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _keep_alive(self) -> None:
        if self._pong_due:
            self._fail(grpc.StatusCode.UNAVAILABLE, f"the server did not answer a ping in {PONG_WITHIN_S} s")
            return
        self._pong_due = True
        self._send(frames.frame(frames.PING, 0, 0, b"crosslgc"))
        self._ping = self._loop.call_later(PONG_WITHIN_S, self._check_pong)

    def _check_pong(self) -> None:
        if self._pong_due:
            self._keep_alive()
        else:
            self._ping = self._loop.call_later(PING_EVERY_S - PONG_WITHIN_S, self._keep_alive)

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _fail(self, status: grpc.StatusCode, text: str, metadata: grpc.aio.Metadata | None = None) -> None:
        error = self._error(status, text, metadata)
        for future in (self._connected, self._ended):
            if not future.done():
                future.set_exception(error)
                # Whoever waits gets it; where nobody does, it is no news.
                future.exception()
        if self._ping is not None:
            self._ping.cancel()
        self._make_room()
        if self._transport is not None:
            self._transport.close()

    def _error(
        self, status: grpc.StatusCode, text: str, metadata: grpc.aio.Metadata | None = None
    ) -> grpc.aio.AioRpcError:
        return grpc.aio.AioRpcError(status, grpc.aio.Metadata(), metadata or grpc.aio.Metadata(), details=text)

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._tls.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(str(self._tls.cert_file), str(self._tls.key_file))
        context.set_alpn_protocols(["h2"])
        return context


def _as_text(raw: str | bytes) -> str:
    return raw if isinstance(raw, str) else raw.decode("latin-1")

"""HTTP/2 frames (RFC 9113) and gRPC's message framing, as far as one client stream needs them. Pure."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD_BYTES = 9
DEFAULT_WINDOW_BYTES = 65_535
DEFAULT_FRAME_BYTES = 16_384
MAX_WINDOW_BYTES = 2**31 - 1
OUR_WINDOW_BYTES = 16 * 1024 * 1024
"""What a server may send before we have taken it. Calls are bounded by their own credit; this bounds the connection."""
OUR_FRAME_BYTES = 1024 * 1024
MAX_MESSAGE_BYTES = 80 * 1024 * 1024
STREAM_ID = 1

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20
CANCEL = 0x8
SETTINGS_ENABLE_PUSH, SETTINGS_INITIAL_WINDOW_SIZE, SETTINGS_MAX_FRAME_SIZE = 0x2, 0x4, 0x5

_SHORT_TEXT = 0x7F
_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_MESSAGE = struct.Struct(">BI")


class ProtocolError(Exception):
    """The server broke the protocol; the connection cannot go on."""


class Frame(NamedTuple):
    """One frame as received. A tuple: a stream's token costs one."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A frame to send."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def opening(*, authority: str, path: str) -> bytes:
    """What a client says first: preface, settings, a connection window, and the request's headers."""
    settings = (
        _SETTING.pack(SETTINGS_ENABLE_PUSH, 0)
        + _SETTING.pack(SETTINGS_INITIAL_WINDOW_SIZE, OUR_WINDOW_BYTES)
        + _SETTING.pack(SETTINGS_MAX_FRAME_SIZE, OUR_FRAME_BYTES)
    )
    return b"".join(
        (
            PREFACE,
            frame(SETTINGS, 0, 0, settings),
            window_update(0, OUR_WINDOW_BYTES - DEFAULT_WINDOW_BYTES),
            frame(HEADERS, END_HEADERS, STREAM_ID, request_headers(authority=authority, path=path)),
        )
    )


def request_headers(*, authority: str, path: str) -> bytes:
    """The request headers of gRPC in HPACK (RFC 7541).

    Indexed where the static table has them, else literals that are not indexed: neither side keeps a table for them.
    """
    return b"".join(
        (
            b"\x83",  # :method POST
            b"\x87",  # :scheme https
            b"\x04" + _text(path),  # :path
            b"\x01" + _text(authority),  # :authority
            b"\x0f\x10" + _text("application/grpc"),  # content-type
            b"\x00" + _text("te") + _text("trailers"),
            b"\x00" + _text("user-agent") + _text("crosslogic"),
        )
    )


def window_update(stream_id: int, increment: int) -> bytes:
    """Allows the server `increment` more bytes."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def message_head(size: int) -> bytes:
    """The prefix in gRPC of an uncompressed message of `size` bytes."""
    return _MESSAGE.pack(0, size)


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings in a SETTINGS frame."""
    if len(payload) % _SETTING.size:
        raise ProtocolError("a SETTINGS frame of a wrong size")
    yield from _SETTING.iter_unpack(payload)


def unpadded(received: Frame) -> bytes:
    """A DATA or HEADERS frame's content, without padding and priority."""
    payload = received.payload
    if received.flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise ProtocolError("padding longer than its frame")
        payload = payload[1 : len(payload) - payload[0]]
    if received.kind == HEADERS and received.flags & PRIORITY:
        payload = payload[5:]
    return payload


class FrameReader:
    """Cuts received bytes into frames."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises ProtocolError for one larger than we allowed."""
        if self._buffer:
            data = self._buffer + data
        frames = []
        at = 0
        end = len(data)
        while end - at >= FRAME_HEAD_BYTES:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > OUR_FRAME_BYTES:
                raise ProtocolError(f"a frame of {size} bytes")
            if end - at - FRAME_HEAD_BYTES < size:
                break
            at += FRAME_HEAD_BYTES
            frames.append(Frame(kind, flags, stream_id & 0x7FFF_FFFF, data[at : at + size]))
            at += size
        self._buffer = data[at:] if at else data
        return frames


class MessageReader:
    """Cuts a stream's data into gRPC messages."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now. Raises ProtocolError for one that is compressed or larger than 80 MiB."""
        self._parts.append(data)
        self._size += len(data)
        if self._size < _MESSAGE.size:
            return []
        head = self._parts[0] if len(self._parts[0]) >= _MESSAGE.size else b"".join(self._parts)[: _MESSAGE.size]
        if self._size < _MESSAGE.size + self._checked_size(head):
            return []
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        messages = []
        at = 0
        while self._size - at >= _MESSAGE.size:
            start = at + _MESSAGE.size
            end = start + self._checked_size(whole[at:start])
            if end > self._size:
                break
            messages.append(whole[start:end])
            at = end
        rest = whole[at:]
        self._parts = [rest] if rest else []
        self._size = len(rest)
        return messages

    @staticmethod
    def _checked_size(head: bytes) -> int:
        compressed, size = _MESSAGE.unpack_from(head)
        if compressed:
            raise ProtocolError("a compressed message that nobody asked for")
        if size > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message of {size} bytes")
        return int(size)


def _text(text: str) -> bytes:
    """A string literal, not Huffman-coded."""
    raw = text.encode("ascii")
    size = len(raw)
    if size < _SHORT_TEXT:
        return bytes((size,)) + raw
    rest = size - _SHORT_TEXT
    out = bytearray((_SHORT_TEXT,))
    while rest > _SHORT_TEXT:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out) + raw

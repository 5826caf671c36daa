"""The HTTP/2 codec: whatever way the network cuts the bytes, the same frames and messages come out."""

import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.h2 import frames
from crosslogic_common.h2.frames import Frame, FrameReader, MessageReader, ProtocolError


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(payloads=st.lists(st.binary(max_size=300), max_size=8), sizes=st.lists(st.integers(0, 50), max_size=40))
def test_frames_survive_any_cut(payloads: list[bytes], sizes: list[int]) -> None:
    sent = b"".join(frames.frame(frames.DATA, 0, 1, payload) for payload in payloads)
    reader = FrameReader()
    received = [frame for piece in cut(sent, sizes) for frame in reader.feed(piece)]
    assert received == [Frame(frames.DATA, 0, 1, payload) for payload in payloads]


@given(messages=st.lists(st.binary(max_size=300), max_size=8), sizes=st.lists(st.integers(0, 50), max_size=40))
def test_messages_survive_any_cut(messages: list[bytes], sizes: list[int]) -> None:
    sent = b"".join(frames.message_head(len(message)) + message for message in messages)
    reader = MessageReader()
    assert [message for piece in cut(sent, sizes) for message in reader.feed(piece)] == messages


@given(data=st.binary(max_size=400))
def test_nonsense_is_refused_or_waited_for_but_never_crashes(data: bytes) -> None:
    for reader in (FrameReader(), MessageReader()):
        try:
            reader.feed(data)
        except ProtocolError:
            continue


def test_a_frame_larger_than_we_allowed_is_refused_before_it_is_buffered() -> None:
    with pytest.raises(ProtocolError):
        FrameReader().feed(b"\x10\x00\x01" + bytes(6))


def test_a_compressed_message_is_refused() -> None:
    with pytest.raises(ProtocolError):
        MessageReader().feed(b"\x01\x00\x00\x00\x01x")


def test_a_message_beyond_the_limit_is_refused_by_its_head_alone() -> None:
    with pytest.raises(ProtocolError):
        MessageReader().feed(b"\x00\xff\xff\xff\xff")


@pytest.mark.parametrize("path", ["/a.B/C", "/" + "x" * 126, "/" + "y" * 127, "/" + "z" * 400])
def test_request_headers_read_as_grpc_wants_them(path: str) -> None:
    decoded: dict[object, object] = dict(Decoder().decode(frames.request_headers(authority="host", path=path)))
    assert decoded == {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": "host",
        "content-type": "application/grpc",
        "te": "trailers",
        "user-agent": "crosslogic",
    }


def test_padding_longer_than_its_frame_is_refused() -> None:
    with pytest.raises(ProtocolError):
        frames.unpadded(Frame(frames.DATA, frames.PADDED, 1, b"\x05abc"))
    assert frames.unpadded(Frame(frames.DATA, frames.PADDED, 1, b"\x02abcd")) == b"ab"

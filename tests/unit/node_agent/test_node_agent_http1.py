"""HTTP/1.1 answers, however they arrive."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_node_agent.engine_connection import EngineConnection
from crosslogic_node_agent.http1 import AnswerParser, HttpError


class Heard:
    def __init__(self) -> None:
        self.status = 0
        self.content_type = ""
        self.body = b""
        self.complete = False

    def on_head(self, status: int, content_type: str) -> None:
        assert self.status == 0
        self.status, self.content_type = status, content_type

    def on_body(self, data: bytes) -> None:
        assert data
        self.body += data

    def on_complete(self) -> None:
        assert not self.complete
        self.complete = True


def parse(raw: bytes, cuts: list[int], *, eof: bool = False) -> tuple[Heard, AnswerParser]:
    heard = Heard()
    parser = AnswerParser(heard)
    edges = [0, *sorted({cut % (len(raw) + 1) for cut in cuts}), len(raw)]
    for start, end in pairwise(edges):
        if start < end:
            parser.feed(raw[start:end])
    if eof:
        parser.feed_eof()
    return heard, parser


def chunked(parts: list[bytes], trailer: bytes = b"") -> bytes:
    body = b"".join(b"%X;ext=1\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\ntransfer-encoding: Chunked\r\n\r\n"
        + body
        + b"0\r\n"
        + trailer
        + b"\r\n"
    )


CUTS = st.lists(st.integers(0, 5000), max_size=12)


@given(parts=st.lists(st.binary(max_size=300), max_size=6), cuts=CUTS, trailer=st.sampled_from([b"", b"X: y\r\n"]))
def test_a_chunked_answer_reads_the_same_however_the_network_cuts_it(
    parts: list[bytes], cuts: list[int], trailer: bytes
) -> None:
    heard, parser = parse(chunked(parts, trailer), cuts)
    assert heard.complete
    assert parser.keep_alive
    assert (heard.status, heard.content_type, heard.body) == (200, "a/b", b"".join(parts))


@given(body=st.binary(max_size=300), cuts=CUTS)
def test_an_answer_with_a_length_reads_the_same_however_the_network_cuts_it(body: bytes, cuts: list[int]) -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    heard, parser = parse(raw, cuts)
    assert heard.complete
    assert parser.complete
    assert (heard.status, heard.body) == (400, body)


@given(body=st.binary(max_size=300), cuts=CUTS)
def test_an_answer_without_a_length_ends_with_its_connection(body: bytes, cuts: list[int]) -> None:
    heard, parser = parse(b"HTTP/1.0 200 OK\r\n\r\n" + body, cuts, eof=True)
    assert heard.complete
    assert heard.body == body
    assert not parser.keep_alive


@given(parts=st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=4), keep=st.floats(0, 0.999))
def test_an_answer_that_is_cut_is_never_taken_for_a_whole_one(parts: list[bytes], keep: float) -> None:
    raw = chunked(parts)
    with pytest.raises(HttpError):
        parse(raw[: int(len(raw) * keep)], [], eof=True)


@given(
    raw=st.binary(max_size=400), cuts=CUTS, head=st.sampled_from([b"", chunked([b"a"])[:75], b"HTTP/1.1 200 OK\r\n"])
)
def test_garbage_is_refused_and_nothing_else_goes_wrong(raw: bytes, cuts: list[int], head: bytes) -> None:
    try:
        parse(head + raw, cuts, eof=True)
    except HttpError:
        return


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    ],
)
def test_what_is_no_answer_is_refused(raw: bytes) -> None:
    with pytest.raises(HttpError):
        parse(raw, [])


class _Transport:
    """A connection's other side, half of which can be closed."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False
        self.ended = False

    def write(self, data: bytes) -> None:
        assert not self.ended, "a request on a half-closed connection"
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class _Nobody:
    def on_head(self, status: int, content_type: str) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_complete(self) -> None: ...

    def on_lost(self, reason: str, *, answered: bool) -> None: ...


@pytest.mark.parametrize("left", [False, True])
def test_connection_whose_client_left_just_as_its_answer_was_complete_serves_nobody_else(left: bool) -> None:
    idle: list[EngineConnection] = []
    connection = EngineConnection(idle.append)
    transport = _Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.send(b"GET / HTTP/1.1\r\n\r\n", _Nobody())
    if left:
        assert connection.hang_up()
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert idle == ([] if left else [connection])
    assert transport.aborted is left

"""Sealed context: a node that carries it can neither read, change nor swap it."""

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.errors import CodedError
from crosslogic_common.seal import Sealer

KEY = bytes(range(32))


@given(st.binary(max_size=500), st.binary(max_size=50))
def test_what_was_sealed_opens_and_reads_as_nothing_on_the_way(plain: bytes, aad: bytes) -> None:
    sealed = Sealer(KEY).seal(plain, aad=aad)
    assert Sealer(KEY).open(sealed, aad=aad) == plain
    assert len(plain) < 8 or plain not in sealed


@given(st.binary(min_size=1, max_size=100), st.integers(0), st.integers(1, 255))
def test_node_that_changes_a_byte_is_found_out(plain: bytes, place: int, change: int) -> None:
    sealed = bytearray(Sealer(KEY).seal(plain, aad=b"request-1"))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(CodedError):
        Sealer(KEY).open(bytes(sealed), aad=b"request-1")


@given(st.binary(max_size=40))
def test_bytes_that_were_never_sealed_are_refused(sealed: bytes) -> None:
    with pytest.raises(CodedError):
        Sealer(KEY).open(sealed, aad=b"")


def test_context_of_one_request_does_not_pass_for_another_or_under_another_key() -> None:
    sealed = Sealer(KEY).seal(b"org 1", aad=b"request-1")
    with pytest.raises(CodedError):
        Sealer(KEY).open(sealed, aad=b"request-2")
    with pytest.raises(CodedError):
        Sealer(os.urandom(32)).open(sealed, aad=b"request-1")


def test_sealing_the_same_twice_gives_two_texts() -> None:
    sealer = Sealer(KEY)
    assert sealer.seal(b"org 1", aad=b"") != sealer.seal(b"org 1", aad=b"")


@pytest.mark.parametrize("text", ["", "short", base64.b64encode(b"x" * 31).decode(), "!" * 44])
def test_bad_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(CodedError) as caught:
        Sealer.from_base64(text)
    assert not text or text not in str(caught.value)


def test_key_reads_as_it_is_written_to_a_file() -> None:
    sealed = Sealer.from_base64(base64.b64encode(KEY).decode() + "\n").seal(b"x", aad=b"")
    assert Sealer(KEY).open(sealed, aad=b"") == b"x"

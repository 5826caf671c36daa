"""What a request says of itself, so that it goes where its session or its prompt's beginning is. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from crosslogic_common.prefix_blocks import BLOCK_ENDS

SESSION_HEADER = "X-Session-ID"
MAX_SESSION_CHARS = 256


@dataclass(frozen=True, slots=True)
class PickHints:
    """As the fields of scheduler.v1.PickRequest."""

    session_key: int = 0
    prefix_hashes: tuple[int, ...] = ()
    client_key: int = 0
    residency_pinned: bool = False
    reserved: bool = False

    @property
    def personal(self) -> bool:
        """Whether a pick made for somebody else would not do."""
        return bool(self.session_key or self.prefix_hashes or self.reserved)


NO_HINTS = PickHints()


class _Prompt(msgspec.Struct):
    """The parts of a body that engines turn into the prompt, in the order in which they do."""

    tools: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_Prompt)


def key_of(*parts: str) -> int:
    """A 64-bit hash that every worker makes alike; never 0."""
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest(), "little") or 1


def session_key(headers: Mapping[str, str], salt: str) -> int:
    """The session that the client named; 0: none. `salt` keeps organisations' sessions apart."""
    session = headers.get(SESSION_HEADER)
    return key_of("session", salt, session[:MAX_SESSION_CHARS]) if session else 0


def prefix_hashes(raw: bytes, model: str, salt: str) -> tuple[int, ...]:
    """Hashes of the beginnings of a body's prompt, shortest first; empty when there is no prompt in it.

    `salt` is the organisation's: its engines' caches share no prefix with another's, and neither do these hashes.
    """
    try:
        prompt = _DECODER.decode(raw)
    except msgspec.DecodeError:
        return ()
    parts = (prompt.tools, prompt.system, prompt.instructions, prompt.prompt, prompt.messages, prompt.input)
    return tuple(_chain(b"".join(bytes(part) for part in parts), f"{model}\0{salt}".encode()))


def _chain(text: bytes, start: bytes) -> Iterable[int]:
    # One running hash, read at each block's end: its cost is that of reading the text once.
    running = blake2b(start, digest_size=8)
    begin = 0
    view = memoryview(text)
    for end in BLOCK_ENDS:
        if end > len(text):
            return
        running.update(view[begin:end])
        begin = end
        yield int.from_bytes(running.copy().digest(), "little")

"""What a request says of itself, so that it goes where its session or its prompt's beginning is. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import msgspec

from crosslogic_common.prefix_blocks import BLOCK_ENDS
from crosslogic_gateway.domain import Model, Principal

SESSION_HEADER = "X-Session-ID"
MAX_SESSION_CHARS = 256


@dataclass(frozen=True, slots=True)
class PickHints:
    """As the fields of scheduler.v1.PickRequest."""

    session_key: int = 0
    prefix_hashes: tuple[int, ...] = ()
    client_key: int = 0
    allowed_regions: tuple[str, ...] = ()
    """Every region that it may run in, the preferred one first. Empty: any."""
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


class Hinter:
    """Makes the hints of requests. Those of most are their key's, and kept."""

    def __init__(self, *, max_keys: int = 65_536) -> None:
        """Keeps the hints of `max_keys` API keys."""
        self._of_key = lru_cache(maxsize=max_keys)(_hints_of_key)

    def hints(
        self, headers: Mapping[str, str], principal: Principal, model: Model, raw: bytes, *, reserved: bool = False
    ) -> PickHints:
        """What a request tells the scheduler. `raw` is the client's body."""
        plain = self._of_key(principal.api_key_id, _regions(principal))
        session = session_key(headers, principal.cache_salt)
        if not (session or reserved or model.prefix_affinity):
            return plain
        return PickHints(
            session_key=session,
            prefix_hashes=prefix_hashes(raw, model.name, principal.cache_salt) if model.prefix_affinity else (),
            client_key=session or plain.client_key,
            allowed_regions=plain.allowed_regions,
            reserved=reserved,
        )


def _regions(principal: Principal) -> tuple[str, ...]:
    return (principal.region,) if principal.residency_pinned else principal.allowed_regions


def _hints_of_key(api_key_id: str, allowed_regions: tuple[str, ...]) -> PickHints:
    return PickHints(client_key=key_of("client", api_key_id), allowed_regions=allowed_regions)


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

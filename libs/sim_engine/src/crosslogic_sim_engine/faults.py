"""What can be made to go wrong, at the start by --faults or at run time by POST /sim/faults."""

import msgspec


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The faults in force; all off by default. A new set replaces the old one; what a stream began with stays with it.

    Counts of tokens are per choice of a request, except `die_after_tokens`.
    """

    requests: int | None = None
    """Only this many more requests are affected (by all but the engine-wide ones); None: all."""

    # Before the answer
    status: int | None = None
    """Answers with this status (400 to 599) and an error body."""
    retry_after_s: int | None = None
    """With `status`: a Retry-After header."""
    header_delay_s: float = 0.0
    """Time before the first byte of an answer."""

    # Within the answer
    token_delay_s: float = 0.0
    """Additional time before each token, of the whole engine."""
    hang_after_tokens: int | None = None
    """Emits this many tokens, then nothing; the connection stays open."""
    cut_after_tokens: int | None = None
    """Closes the connection in the middle of the chunk after this many tokens."""
    garbage_after_tokens: int | None = None
    """After this many tokens sends bytes that are no HTTP chunk and no text."""
    error_after_tokens: int | None = None
    """After this many tokens the error event of a dead engine core, then [DONE], as vLLM does."""
    abort_after_tokens: int | None = None
    """After this many tokens finish_reason "abort", as vLLM does when it is told to stop."""
    cut_before_usage: bool = False
    """Closes the connection after the last token's chunk, before the usage chunk."""
    die_before_usage: bool = False
    """Exits at that moment, without a word."""

    # The whole engine, at once
    hang: bool = False
    """No stream gets a token while this is on."""
    health_status: int = 200
    die_after_tokens: int | None = None
    """Exits, without a word, when this many more tokens were generated in all."""


NO_FAULTS = Faults()
_DECODER = msgspec.json.Decoder(Faults)


def parse_faults(text: str | bytes) -> Faults:
    """Faults from JSON; msgspec.ValidationError or DecodeError when it is none."""
    return _DECODER.decode(text)


class FaultBoard:
    """The faults in force, and which requests they still affect."""

    def __init__(self, faults: Faults) -> None:
        self.current = NO_FAULTS
        self._left: int | None = None
        self.replace(faults)

    def replace(self, faults: Faults) -> None:
        """Puts others in force. None at all are always the object NO_FAULTS, which is cheap to ask for."""
        self.current = NO_FAULTS if faults == NO_FAULTS else faults
        self._left = faults.requests

    def for_next_request(self) -> Faults:
        """What the next request meets; uses up one of `requests`."""
        if self._left is None:
            return self.current
        if self._left <= 0:
            return NO_FAULTS
        self._left -= 1
        return self.current

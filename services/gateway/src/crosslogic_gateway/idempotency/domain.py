"""The words of idempotency. Pure."""

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum

from crosslogic_common.errors import CodedError, ErrorCode

IDEMPOTENCY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotent-Replayed"
"""`true` on an answer that was made for an earlier request."""
DEGRADED_HEADER = "X-CrossLogic-Idempotency"
"""`degraded`: Redis is away, and only repeats that reach the same worker are recognised."""
MAX_KEY_CHARS = 255
_MAC_DIGITS = 40


@dataclass(frozen=True, slots=True)
class Names:
    """What stands for one key of one caller, and for what was asked under it. Neither can be turned back."""

    entry: str
    """Hexadecimal; the same for every request under the key."""
    fingerprint: str
    """Hexadecimal; the same for every request with that method, path and body."""


def names_of(secret: bytes, *, scope: str, key: str, method: str, path: str, body: bytes) -> Names:
    """The names of a request. `scope` is whose key it is: keys of two callers never meet."""
    entry = hmac.new(secret, f"{scope}\0{key}".encode(), hashlib.sha256)
    asked = hmac.new(secret, f"{method}\0{path}\0".encode(), hashlib.sha256)
    asked.update(body)
    return Names(entry.hexdigest()[:_MAC_DIGITS], asked.hexdigest()[:_MAC_DIGITS])


def checked_key(text: str) -> str:
    """The header's value. Raises INVALID_ARGUMENT when it is empty, too long or not printable ASCII."""
    if not text or len(text) > MAX_KEY_CHARS or not text.isascii() or not text.isprintable():
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            f"`{IDEMPOTENCY_HEADER}` must have 1 to {MAX_KEY_CHARS} printable ASCII characters.",
            param=IDEMPOTENCY_HEADER,
        )
    return text


def other_body() -> CodedError:
    """Somebody used a key twice for two things."""
    return CodedError(
        ErrorCode.CONFLICT,
        f"This `{IDEMPOTENCY_HEADER}` was used for another request. Use a new key for each request, and the same one "
        "only to repeat it.",
        param=IDEMPOTENCY_HEADER,
    )


def not_kept() -> CodedError:
    """The first answer was given and cannot be given again."""
    return CodedError(
        ErrorCode.CONFLICT,
        f"The request with this `{IDEMPOTENCY_HEADER}` was carried out, and its answer was too large to be kept. "
        "It is not carried out again: use a new key.",
        param=IDEMPOTENCY_HEADER,
    )


class Stage(StrEnum):
    """How far the first request under a key has come, as Redis knows it."""

    CLAIMED = "claimed"
    """Nobody works on it: the asker does from now on."""
    CONFLICT = "conflict"
    """The key stands for something else."""
    RUNNING = "running"
    """A worker is at it."""
    DONE = "done"
    """Its answer lies ready."""
    DROPPED = "dropped"
    """It was answered and the answer was not kept."""
    ABSENT = "absent"
    """Nobody was ever at it, or it failed and may be tried again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim."""

    stage: Stage
    request_id: str
    """Under CLAIMED: what the request must be called. A worker that died may have had it billed under this id, and the
    ledger takes an id once."""


@dataclass(frozen=True, slots=True)
class Head:
    """An answer's status and headers."""

    status: int
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """What Redis has of an answer."""

    stage: Stage
    owner: str
    """Which run of the request it is. Parts of two runs do not belong together."""
    head: Head | None
    parts: tuple[bytes, ...]
    """From the part that was asked for."""
    next_part: int

"""The words of shedding. Pure."""

from collections.abc import Mapping
from enum import IntEnum

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.domain import Priority

PRIORITY_HEADER = "X-CrossLogic-Priority"
"""Lowers the priority of one request: `high`, `normal` or `low`."""
QUEUE_TIMEOUT_HEADER = "X-CrossLogic-Queue-Timeout-Ms"
"""How long one request may wait for its turn, in milliseconds."""
MAX_QUEUE_TIMEOUT_MS = 60_000


class Rank(IntEnum):
    """Who is served first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


RANKS: Mapping[Priority, Rank] = {"high": Rank.HIGH, "normal": Rank.NORMAL, "low": Rank.LOW}
_BY_NAME: Mapping[str, Rank] = {"high": Rank.HIGH, "normal": Rank.NORMAL, "low": Rank.LOW}


def rank_of(priority: Priority, asked: str | None) -> Rank:
    """The plan's priority, or a lower one that the request asks for. Raises INVALID_ARGUMENT for a word it is not."""
    own = RANKS[priority]
    if asked is None:
        return own
    lowered = _BY_NAME.get(asked.lower())
    if lowered is None:
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT, f"`{PRIORITY_HEADER}` must be high, normal or low.", param=PRIORITY_HEADER
        )
    return max(own, lowered)


def queue_timeout_s(asked: str | None, default_s: float) -> float:
    """How long a request may wait, in seconds. Raises INVALID_ARGUMENT for what is no number of milliseconds."""
    if asked is None:
        return default_s
    if not (asked.isascii() and asked.isdecimal()) or len(asked) > len(str(MAX_QUEUE_TIMEOUT_MS)):
        raise _no_timeout()
    timeout_ms = int(asked)
    if timeout_ms > MAX_QUEUE_TIMEOUT_MS:
        raise _no_timeout()
    return timeout_ms / 1000


def overloaded(retry_after_s: float, reason: str) -> CodedError:
    """The refusal of a request that there is no room for."""
    return CodedError(ErrorCode.OVERLOADED, private=reason, retry_after_s=max(1.0, retry_after_s))


def _no_timeout() -> CodedError:
    return CodedError(
        ErrorCode.INVALID_ARGUMENT,
        f"`{QUEUE_TIMEOUT_HEADER}` must be a whole number from 0 to {MAX_QUEUE_TIMEOUT_MS}.",
        param=QUEUE_TIMEOUT_HEADER,
    )

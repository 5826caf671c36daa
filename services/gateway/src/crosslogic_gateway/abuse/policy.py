"""When a key's requests are abuse. Pure."""

from dataclasses import dataclass

from crosslogic_common.errors import ErrorCode

INVALID = frozenset(
    {
        ErrorCode.INVALID_ARGUMENT,
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ErrorCode.MODEL_NOT_FOUND,
        ErrorCode.REQUEST_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    }
)
"""Answers to a payload that no honest client sends often."""
TOO_FAST = frozenset({ErrorCode.RATE_LIMITED})


@dataclass(frozen=True, slots=True)
class AbusePolicy:
    """What is tolerated in a window, in one gateway worker."""

    window_s: float = 60.0
    invalid_requests: int = 2_000
    """Fewer invalid requests are never abuse. 0: they are not counted."""
    invalid_share: float = 0.9
    """Of a key's requests, invalid ones beyond this share are abuse."""
    velocity: float = 20.0
    """Requests refused for going too fast, as a multiple of the key's own limit a window. 0: they are not counted."""


@dataclass(slots=True)
class Counts:
    """One key's requests in one window."""

    ends_at: float
    """The event loop's time."""
    requests: int = 0
    invalid: int = 0
    too_fast: int = 0
    reported: bool = False


def verdict(policy: AbusePolicy, counts: Counts, requests_per_minute: int | None) -> str:
    """Why the key is to be suspended, for people. Empty: it is not."""
    if (
        policy.invalid_requests
        and counts.invalid >= policy.invalid_requests
        and counts.invalid > counts.requests * policy.invalid_share
    ):
        return f"abuse: {counts.invalid:,} of {counts.requests:,} requests within {policy.window_s:g} s were not valid"
    if policy.velocity and requests_per_minute is not None:
        tolerated = max(requests_per_minute * policy.window_s / 60 * policy.velocity, 1.0)
        if counts.too_fast > tolerated:
            return (
                f"abuse: {counts.too_fast:,} requests within {policy.window_s:g} s beyond a limit of "
                f"{requests_per_minute:,} a minute"
            )
    return ""

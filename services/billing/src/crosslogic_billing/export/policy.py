"""How meter events are made and delivered, pure."""

import hashlib
from datetime import datetime, timedelta

from crosslogic_billing.export.domain import Delivered, MeterEvent, Outcome, Rejected, Retry, Unit

MAX_VALUE = 10**15 - 1
"""Stripe's values have 15 digits at most."""
OLDEST = timedelta(days=35)
"""Stripe refuses events with an earlier time."""
TRUST_IDENTIFIER = timedelta(hours=20)
"""Stripe knows an identifier for 24 hours at least. Later than this an unknown outcome is settled by its summaries."""
STEADY_S = 900.0
"""Once backoff has grown so far, there is an attempt every 15 minutes."""
_BASE_S = 1.0
_DUPLICATE_CODES = frozenset({"duplicate_meter_event"})
_TOO_MANY = 429
_CONFLICT = 409
_SERVER_ERROR = 500
_NOT_OURS = frozenset({401, 403})
_IN_FUTURE = frozenset({"timestamp_in_future"})


def event_name(category: str, unit: Unit) -> str:
    """The meter of a category: what was charged, and beside it how many tokens that were."""
    return f"crosslogic_{category}_{unit}"


def identifier(*, org_id: str, category: str, unit: Unit, window_start: datetime, revision: int, part: int) -> str:
    """Of an event: the same for the same aggregate, for ever."""
    told = f"{org_id}|{category}|{unit}|{int(window_start.timestamp())}|{revision}|{part}"
    return "cl_" + hashlib.sha256(told.encode()).hexdigest()[:48]


def idempotency_key(event: MeterEvent) -> str:
    """Of one attempt. Each has its own: Stripe answers a key that it has seen with the answer of then, a 500 too.

    Nothing is doubled by that, since the identifier stays. Stripe's error reports name the key, so it begins with the
    identifier.
    """
    return f"{event.identifier}.{event.attempts}"


def identifier_of(key: str) -> str:
    """The identifier in an idempotency key of ours."""
    return key.partition(".")[0]


def parts(value: int) -> list[int]:
    """A value in pieces that Stripe takes."""
    whole, rest = divmod(value, MAX_VALUE)
    return [MAX_VALUE] * whole + ([rest] if rest else [])


def too_old(event: MeterEvent, now: datetime) -> bool:
    """Whether Stripe would refuse it for its age."""
    return event.window_start < now - OLDEST


def must_look_first(event: MeterEvent, now: datetime) -> bool:
    """Whether it might be counted twice if it were sent again without looking."""
    return event.unknown_since is not None and now - event.unknown_since > TRUST_IDENTIFIER


def found_in(summary: float, delivered: int, value: int) -> bool | None:
    """Whether an hour's sum at Stripe has the event besides what is known to be delivered. None: neither way fits."""
    without, with_it = float(delivered), float(delivered + value)
    if summary == without:
        return False
    if summary == with_it:
        return True
    return None


def outcome_of(status: int, code: str, message: str) -> Outcome:
    """What an answer of Stripe's means; `status` 0: there was none (a time limit, a broken connection)."""
    reason = f"{status or 'no answer'} {code} {message}".strip()[:500]
    if status == 0 or status >= _SERVER_ERROR:
        return Retry(reason, unknown=True)
    if status in (_TOO_MANY, _CONFLICT):
        return Retry(reason, unknown=False)
    if status in _NOT_OURS:
        return Retry(reason, unknown=False, ours=True)
    if code in _DUPLICATE_CODES or "already exists with identifier" in message:
        return Delivered("duplicate")
    if code in _IN_FUTURE or "in the future" in message:
        # Windows are closed: it is our clock that is ahead, or Stripe's that is behind.
        return Retry(reason, unknown=False, ours=True)
    return Rejected(reason)


def wait_s(failures: int, draw: float) -> float:
    """How long a lane waits after so many failures in a row, in seconds. `draw` is 0 to 1."""
    if failures <= 0:
        return 0.0
    ceiling: float = min(STEADY_S, _BASE_S * 2.0 ** min(failures - 1, 30))
    return ceiling * (0.5 + 0.5 * draw)

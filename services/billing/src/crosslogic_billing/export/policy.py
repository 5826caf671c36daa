"""How meter events are made and delivered, pure."""

import hashlib
from datetime import datetime, timedelta

from crosslogic_billing.export.domain import Credit, Delivered, Hour, MeterEvent, Outcome, Rejected, Retry, Unit

MAX_VALUE = 10**15 - 1
"""Stripe's values have 15 digits at most."""
OLDEST = timedelta(days=35)
"""Stripe refuses events with an earlier time."""
TRUST_IDENTIFIER = timedelta(hours=20)
"""Stripe knows an identifier for 24 hours at least. Later than this an unknown outcome is settled by its summaries."""
ADDED_UP = timedelta(hours=1)
"""Stripe adds events up behind the answer; by then it surely has."""
GIVE_UP = timedelta(days=30)
"""An event of this age that still fails becomes a dead letter: five days are left in which Stripe would take it."""
NO_ANSWER = "no answer"
"""How the reason begins where Stripe has said nothing."""
STEADY_S = 900.0
"""Once backoff has grown so far, there is an attempt every 15 minutes."""
_BASE_S = 1.0
_PATIENCE = 3
MOST_TRIES = 8
"""Events of a lane that may fail in one lease. Any of them may be counted by Stripe without our knowing."""
_MOST_SUMS = 4_096
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


def credit_key(credit: Credit) -> str:
    """The idempotency key of a credit.

    It stays while Stripe has not answered, so that a call under way is not repeated beside itself; once it has, its
    answer of then would only come again.
    """
    return f"crosslogic-credit-{credit.id}.{credit.answered}"


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


def found_in(summary: float, hour: Hour, value: int) -> tuple[bool, bool]:
    """Whether an hour's sum at Stripe can be explained with an event of this value in it, and whether without.

    Both: it cannot be told. Neither: somebody else has told Stripe something.
    """
    sums = {hour.surely}
    for other in hour.perhaps:
        sums |= {known + other for known in sums}
        if len(sums) > _MOST_SUMS:
            return True, True
    return any(float(known + value) == summary for known in sums), any(float(known) == summary for known in sums)


def tries(failures: int) -> int:
    """How many events of a lane may fail while none goes through, by how often that happened before in a row.

    At first one: nothing is known of Stripe but that it does not answer. A lane that has failed for long tries others
    as well, in case it is some events alone that Stripe cannot take.
    """
    return 1 if failures < _PATIENCE else min(MOST_TRIES, failures - _PATIENCE + 2)


def tries_newest(failures: int, stuck: int) -> bool:
    """Whether the next try is the lane's newest event: the last one, where several are tried.

    However many in a row Stripe cannot take, they were made in a row too: the newest is the least likely of them.
    """
    return stuck > 0 and stuck == tries(failures) - 1


def give_up(event: MeterEvent, now: datetime) -> bool:
    """Whether an event that has just failed is left to an operator."""
    return event.window_start < now - GIVE_UP


def outcome_of(status: int, code: str, message: str) -> Outcome:
    """What an answer of Stripe's means; `status` 0: there was none (a time limit, a broken connection)."""
    reason = f"{status or NO_ANSWER} {code} {message}".strip()[:500]
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

"""How well a node is, 0 to 100. Pure.

Each sign takes points away; the score is what is left. Errors and latency count only over enough calls to mean
something, and latency only against the node's own past: a slow model is no sick node.
"""

from dataclasses import dataclass

from crosslogic_registry.domain import Silence

BEST = 100
UNHEALTHY_BELOW = 40
MIN_CALLS = 10
SLOW_RATIO = 3.0
VERY_SLOW_RATIO = 10.0
FRAGMENTED = 0.8
WARM_CELSIUS = 80
HOT_CELSIUS = 95
RECENT_S = 600.0
"""For how long a restart or a lack of memory counts."""
_LATE_SHARE = 2 / 3
"""Of `unhealthy_s`: two missed heartbeats are no sign yet."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What is known of a node's health."""

    silent_s: float = 0.0
    """Since anybody heard of it."""
    calls: int = 0
    """Of the last minute or so."""
    failed_calls: int = 0
    first_byte_ms: float = 0.0
    """Lately. 0: not known."""
    usual_first_byte_ms: float = 0.0
    """The node's own baseline. 0: not known."""
    temperature_celsius: int = 0
    oom_recent: int = 0
    """Times that memory ran out within the last ten minutes."""
    restarts_recent: int = 0
    memory_fragmentation: float | None = None
    """None: nothing measures it, which is no sign of anything."""


def score(signs: Signs, silence: Silence) -> int:
    """0 (useless) to 100 (nothing wrong). A node as silent as `unhealthy_s` is below 40, one as `dead_s` at 0."""
    if signs.silent_s >= silence.dead_s:
        return 0
    lost = _late(signs.silent_s, silence)
    if signs.calls >= MIN_CALLS:
        lost += 60.0 * min(signs.failed_calls / signs.calls / 0.5, 1.0)
        lost += _slow(signs.first_byte_ms, signs.usual_first_byte_ms)
    lost += _ramp(signs.temperature_celsius, WARM_CELSIUS, HOT_CELSIUS, 20.0)
    lost += min(15.0 * signs.oom_recent, 30.0)
    lost += min(10.0 * signs.restarts_recent, 30.0)
    lost += 10.0 if signs.memory_fragmentation is not None and signs.memory_fragmentation > FRAGMENTED else 0.0
    return max(0, BEST - round(lost))


def _late(silent_s: float, silence: Silence) -> float:
    from_s = _LATE_SHARE * silence.unhealthy_s
    if silent_s < silence.unhealthy_s:
        return _ramp(silent_s, from_s, silence.unhealthy_s, 61.0)
    return 61.0 + _ramp(silent_s, silence.unhealthy_s, silence.dead_s, 39.0)


def _slow(first_byte_ms: float, usual_ms: float) -> float:
    if first_byte_ms <= 0 or usual_ms <= 0 or first_byte_ms <= SLOW_RATIO * usual_ms:
        return 0.0
    return 20.0 + _ramp(first_byte_ms / usual_ms, SLOW_RATIO, VERY_SLOW_RATIO, 20.0)


def _ramp(value: float, start: float, end: float, most: float) -> float:
    """0 up to `start`, `most` from `end` on, in a straight line between."""
    if value <= start or end <= start:
        return 0.0 if value <= start else most
    return most * min((value - start) / (end - start), 1.0)

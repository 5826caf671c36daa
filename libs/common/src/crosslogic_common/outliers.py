"""When a peer that fails or lags is passed over for a while, and when it is tried again. Pure: time is handed in.

The figures are those of Envoy's outlier detection, where it has them.
"""

import enum
from dataclasses import dataclass

_LATENCY_SAMPLES = 20
"""Requests over which the running mean of a peer's time to the first byte is taken: one long prompt is not slowness."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutlierPolicy:
    """When to eject."""

    failures_in_a_row: int = 5
    error_rate: float = 0.5
    """Ejected above this share of failed requests, 0 to 1."""
    min_volume: int = 20
    """Requests of a window below which the share of failures is not judged."""
    window_s: float = 10.0
    slow_factor: float = 3.0
    """Ejected when the time to the first byte is above this many times that of its peers."""
    slow_floor_us: float = 1_000_000.0
    """Never for a time to the first byte below this."""
    slow_for_s: float = 30.0
    """How long it must have been so: a burst is no illness."""
    slow_volume: int = 5
    """Requests that it must have answered in that time."""
    base_ejection_s: float = 30.0
    """The first ejection's length; the n-th in a row lasts n times as long."""
    max_ejection_s: float = 300.0
    probe_timeout_s: float = 60.0
    """How long the one request that tries an ejected peer may leave its outcome open."""


class Phase(enum.Enum):
    """Where a peer is in the life of a circuit breaker."""

    IN = "in"
    """It takes requests."""
    OUT = "out"
    """It takes none until its time is over."""
    HALF_OPEN = "half open"
    """It takes one, whose outcome decides."""


class Reason(enum.Enum):
    """Why a peer is ejected."""

    FAILURES_IN_A_ROW = "failures in a row"
    ERROR_RATE = "error rate"
    SLOW = "slow"
    PROBE_FAILED = "probe failed"


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody saw of a peer since the report before."""

    succeeded: int
    failed: int
    failed_in_a_row: int
    """Failures after the last success."""
    first_byte_us_total: int
    """Over the successes."""


@dataclass(slots=True, eq=False)
class PeerRecord:
    """What is known of one peer."""

    phase: Phase = Phase.IN
    failed_in_a_row: int = 0
    latency_us: float = 0.0
    """Running mean of the time to the first byte; 0: not known."""
    ejections: int = 0
    """In a row: one is forgotten for each while that the peer serves as long as its last ejection lasted."""
    until: float = 0.0
    """OUT: when it may be tried. HALF_OPEN: when the one trial is given up. IN: when an ejection is forgotten."""
    trial_under_way: bool = False
    slow_since: float | None = None
    slow_answers: int = 0
    """Since then."""
    window_from: float = 0.0
    succeeded: int = 0
    failed: int = 0
    _succeeded_before: int = 0
    _failed_before: int = 0

    @property
    def volume(self) -> int:
        """Requests of this window and the one before."""
        return self.succeeded + self.failed + self._succeeded_before + self._failed_before

    @property
    def failures(self) -> int:
        """Of these, the failed ones."""
        return self.failed + self._failed_before

    def note(self, seen: Seen, policy: OutlierPolicy, now: float) -> None:
        """Takes a report."""
        self._turn_window(policy, now)
        self.slow_answers += seen.succeeded
        self.succeeded += seen.succeeded
        self.failed += seen.failed
        if seen.succeeded:
            self.failed_in_a_row = seen.failed_in_a_row
            mean_us = seen.first_byte_us_total / seen.succeeded
            if mean_us > 0:
                known = self.latency_us
                weight = seen.succeeded / (seen.succeeded + _LATENCY_SAMPLES)
                self.latency_us = known + weight * (mean_us - known) if known else mean_us
        else:
            self.failed_in_a_row += seen.failed
        if self.phase is Phase.IN and self.ejections and now >= self.until:
            self.ejections -= 1
            self.until = now + ejection_s(self.ejections, policy)

    def reason_to_eject(self, policy: OutlierPolicy, typical_latency_us: float, now: float) -> Reason | None:
        """Why a peer that takes requests should not.

        `typical_latency_us` is that of its peers that have no less to do; 0: not known.
        """
        slow_for_s = self._slow_for_s(policy, typical_latency_us, now)
        if self.failed_in_a_row >= policy.failures_in_a_row:
            return Reason.FAILURES_IN_A_ROW
        if self.volume >= policy.min_volume and self.failures > policy.error_rate * self.volume:
            return Reason.ERROR_RATE
        if slow_for_s >= policy.slow_for_s and self.slow_answers >= policy.slow_volume:
            return Reason.SLOW
        return None

    def eject(self, policy: OutlierPolicy, now: float) -> None:
        """Out, for longer each time."""
        self.ejections += 1
        self.phase = Phase.OUT
        self.until = now + ejection_s(self.ejections, policy)
        self._start_over(now)

    def half_open(self) -> None:
        """Its time is over: one request may try it."""
        self.phase = Phase.HALF_OPEN
        self.trial_under_way = False
        self._start_over(self.until)

    def start_trial(self, policy: OutlierPolicy, now: float) -> None:
        """The one request is on its way."""
        self.trial_under_way = True
        self.until = now + policy.probe_timeout_s

    def restore(self, policy: OutlierPolicy, now: float) -> None:
        """It takes requests again."""
        self.phase = Phase.IN
        self.trial_under_way = False
        # What it took while it was ill says nothing of how long it takes now.
        self.latency_us = 0.0
        self.until = now + ejection_s(self.ejections, policy)

    def _slow_for_s(self, policy: OutlierPolicy, typical_latency_us: float, now: float) -> float:
        if typical_latency_us <= 0 or self.latency_us <= max(
            policy.slow_factor * typical_latency_us, policy.slow_floor_us
        ):
            self.slow_since = None
            return 0.0
        if self.slow_since is None:
            self.slow_since, self.slow_answers = now, 0
        return now - self.slow_since

    def _start_over(self, now: float) -> None:
        self.window_from = now
        self.slow_since = None
        self.failed_in_a_row = 0
        self.succeeded = self.failed = self._succeeded_before = self._failed_before = 0

    def _turn_window(self, policy: OutlierPolicy, now: float) -> None:
        age_s = now - self.window_from
        if age_s < policy.window_s:
            return
        recent = age_s < 2 * policy.window_s
        self._succeeded_before = self.succeeded if recent else 0
        self._failed_before = self.failed if recent else 0
        self.succeeded = self.failed = 0
        self.window_from = now


def ejection_s(ejections: int, policy: OutlierPolicy) -> float:
    """How long the `ejections`-th ejection in a row lasts, in seconds."""
    return min(policy.base_ejection_s * ejections, policy.max_ejection_s)

"""When another node is asked for a request that one has failed. Pure."""

from dataclasses import dataclass
from enum import Enum, auto

from prometheus_client import CollectorRegistry, Gauge

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.hedging import Hedging

MAX_ATTEMPTS = 3
"""Attempts that may fail in a row: before the first byte, or without bringing a stream on."""
MAX_NODES = 8
"""Nodes that may work on one request."""
PROGRESS_TOKENS = 8
"""A node that brought a stream on by so many tokens was not ended by it."""
MAX_UNREACHED = 8
"""Nodes that are skipped in one search because they are out of reach: a pick may exclude 16 in all."""
BACK_WITHIN_S = 1.0
"""How long a request waits, when there is no other node, for the way to one that could not be reached."""
ANOTHER_EVERY_S = 0.5
"""How often it asks for one."""
RETRY_AFTER_S = 1.0
"""What a client is told whose request found no node: nodes that come back do so in seconds."""


class Failure(Enum):
    """What an attempt's failure says of the next one."""

    FINAL = auto()
    """Another node would do no better: the request or its client is at fault."""
    UNREACHED = auto()
    """Nothing was sent to the node."""
    LOST = auto()
    """The node, its engine or the way there broke down under the request: its work has to be done once more."""
    REFUSED = auto()
    """A node that lives failed it: asking another adds to the fleet's load when all do so."""


@dataclass(frozen=True, slots=True)
class FailoverPolicy:
    """How far failover goes."""

    window_s: float = 120.0
    """How long a client may wait over all attempts: for its first byte, or for the next one after a break."""
    another_within_s: float = 3.0
    """How long a request that lost its node waits for another where there is none: what is known of nodes that live may
    be late by a heartbeat, above all when several die at once."""
    budget_share: float = 0.2
    """Retries after refusals, as a share of the requests."""
    budget_least: int = 3
    """Retries that are always allowed in `budget_window_s`."""
    budget_window_s: float = 10.0


_LOST = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.ENGINE_UNAVAILABLE, ErrorCode.ENGINE_ERROR, ErrorCode.INTERNAL})
# An engine that is late with its first byte may just have too much to do: asking others makes it worse.
_REFUSED = frozenset({ErrorCode.OVERLOADED, ErrorCode.MODEL_NOT_FOUND, ErrorCode.NOT_SUPPORTED, ErrorCode.TIMEOUT})
_RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})
"""Answers of an engine that say nothing of the request."""


class FailedAttempt(Exception):  # noqa: N818  # it is caught where the next attempt is decided on, and goes no further
    """An attempt brought no answer."""

    def __init__(self, error: CodedError, failure: Failure, *, blames_node: bool) -> None:
        """`error` is what the client is told when no other node is asked; `blames_node`: it counts against the node."""
        super().__init__(str(error))
        self.error = error
        self.failure = failure
        self.blames_node = blames_node


def unreached(error: CodedError) -> FailedAttempt:
    """The node could not even be sent the request."""
    return FailedAttempt(error, Failure.UNREACHED, blames_node=False)


def broken(error: CodedError, *, sent: bool, silent: bool) -> FailedAttempt:
    """The call failed, after something of it was `sent` or before; the node itself was `silent`, or told of it."""
    if error.code is ErrorCode.NODE_DRAINING:
        # It is well and hands its work over because it leaves.
        return FailedAttempt(error, Failure.LOST, blames_node=False)
    if error.code in _LOST or (error.code is ErrorCode.TIMEOUT and (sent or silent)):
        return FailedAttempt(error, Failure.LOST, blames_node=True)
    if error.code in _REFUSED:
        # One that is full is not broken.
        return FailedAttempt(error, Failure.REFUSED, blames_node=error.code is not ErrorCode.OVERLOADED)
    return FailedAttempt(error, Failure.FINAL, blames_node=False)


def refused(error: CodedError, status: int) -> FailedAttempt:
    """The engine answered with an error's status."""
    failure = Failure.REFUSED if status in _RETRIED_STATUSES else Failure.FINAL
    return FailedAttempt(error, failure, blames_node=status >= 500)  # HTTP's own boundary  # noqa: PLR2004


def given_up(error: CodedError) -> FailedAttempt:
    """The client does not take its answer."""
    return FailedAttempt(error, Failure.FINAL, blames_node=False)


@dataclass(slots=True)
class FailoverCounts:
    """What this worker has done since its start."""

    hedging: Hedging
    attempts: int = 0
    failovers: int = 0
    resumed: int = 0
    denied: int = 0

    def register(self, registry: CollectorRegistry) -> None:
        """Shows them as metrics."""
        for name, text, read in (
            ("crosslogic_node_attempts", "Requests sent to nodes.", lambda: self.attempts),
            ("crosslogic_failovers", "Times that another node was asked.", lambda: self.failovers),
            ("crosslogic_streams_resumed", "Streams that went on at another node.", lambda: self.resumed),
            ("crosslogic_retries_denied", "Retries that the budget did not allow.", lambda: self.denied),
            ("crosslogic_hedges", "Second nodes asked because of a slow first token.", lambda: self.hedging.asked),
            ("crosslogic_hedges_won", "Second nodes that answered first.", lambda: self.hedging.won),
        ):
            Gauge(name, text, registry=registry).set_function(read)


class RetryBudget:
    """Retries after refusals, held to a share of the traffic: a fleet that refuses is not asked ever more.

    What a lost node had under way is done once more without asking the budget: that work replaces work that nobody does
    any longer. Each worker keeps its share by itself; the fleet's is their sum.
    """

    def __init__(self, policy: FailoverPolicy, *, began_at: float = 0.0) -> None:
        """`began_at`: since when requests are counted, monotonic seconds."""
        self._policy = policy
        self._requests = self._retries = 0
        """Since the window began."""
        self._ends_at = began_at + policy.budget_window_s
        self._before = (0, 0)
        """Requests and retries of the window before this one."""

    def asked(self, now: float) -> None:
        """Counts a request that came at `now` (monotonic seconds)."""
        if now >= self._ends_at:
            self._turn(now)
        self._requests += 1

    def take(self, now: float) -> bool:
        """Whether one more retry is allowed at `now` (monotonic seconds); counts it when it is."""
        if now >= self._ends_at:
            self._turn(now)
        requests, retries = self._before
        # That much of the window before lies in the last `budget_window_s`.
        part = (self._ends_at - now) / self._policy.budget_window_s
        allowed = max(self._policy.budget_least, self._policy.budget_share * (self._requests + requests * part))
        if self._retries + retries * part + 1 > allowed:
            return False
        self._retries += 1
        return True

    def _turn(self, now: float) -> None:
        """Begins the window that `now` is in: they follow one another, with or without requests."""
        window_s = self._policy.budget_window_s
        passed = 1 + int((now - self._ends_at) / window_s)
        self._before = (self._requests, self._retries) if passed == 1 else (0, 0)
        self._requests = self._retries = 0
        self._ends_at += passed * window_s

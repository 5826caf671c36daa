"""A node, and what only the registry knows of it."""

import math
from dataclasses import dataclass, field

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_registry import health
from crosslogic_registry.domain import Link, Silence, Status
from crosslogic_registry.session import HeartbeatSession
from crosslogic_registry.testimony import Probe, Testimony

HALF_LIFE_S = 30.0
"""Of what gateways said of calls: after this time it counts half."""
BASELINE_WEIGHT = 0.1
"""Of a new latency in the node's own baseline: about ten looks of 15 s make it."""


@dataclass(slots=True)
class Calls:
    """Calls as gateways saw them, the latest counting most."""

    succeeded: float = 0.0
    failed: float = 0.0
    at: float = 0.0

    def add(self, succeeded: int, failed: int, now: float) -> None:
        """More calls."""
        faded = math.exp2(-(now - self.at) / HALF_LIFE_S) if self.at else 0.0
        self.succeeded = self.succeeded * faded + succeeded
        self.failed = self.failed * faded + failed
        self.at = now


@dataclass(slots=True)
class Recent:
    """How often something happened lately, by a counter that only grows."""

    total: int = 0
    count: int = 0
    at: float = -math.inf

    def see(self, total: int, now: float) -> None:
        """The counter as it is now; one that fell began anew."""
        more = total - self.total if total >= self.total else total
        if now - self.at > health.RECENT_S:
            self.count = 0
        if more > 0:
            self.count += more
            self.at = now
        self.total = total


@dataclass(slots=True)
class Member:
    """A node."""

    node: pb.Node
    status: Status
    drain_asked: bool
    heard_at: float
    """On the monotonic clock: its last heartbeat, or what stands for one."""
    link: Link = "here"
    session: HeartbeatSession | None = None
    lease: bytes = b""
    """The last word that another replica left of it, or this one."""
    lease_due: bool = False
    """It was heard of here since its lease was written."""
    drained_at: float = -math.inf
    """On the monotonic clock: when a drain was last asked for here."""
    gateways_heard_at: float | None = None
    """On the monotonic clock: when a gateway last heard it. None: no gateway used it since the registry started."""
    probe: Probe = Probe.NONE
    probed_at: float = -math.inf
    calls: Calls = field(default_factory=Calls)
    ooms: Recent = field(default_factory=Recent)
    restarts: Recent = field(default_factory=Recent)
    usual_first_byte_ms: float = 0.0
    scored_at: float = -math.inf

    def testimony(self, now: float) -> Testimony:
        """What the witnesses say of it."""
        heard_at = self.gateways_heard_at
        return Testimony(
            status=self.status,
            link=self.link,
            silent_s=now - self.heard_at,
            heard_by_gateways_s=None if heard_at is None else now - heard_at,
            probe=self.probe,
        )

    def hear(self, now: float) -> None:
        """It spoke: what others said of its silence is over."""
        self.heard_at = now
        self.probe = Probe.NONE

    def take_metrics(self, metrics: pb.NodeMetrics) -> None:
        """How its machine is; the baseline follows slowly, and not at all while the node is sick."""
        self.node.metrics.CopyFrom(metrics)
        if metrics.first_byte_ms and metrics.calls >= 3:  # noqa: PLR2004  # fewer say little
            usual = self.usual_first_byte_ms
            if not usual:
                self.usual_first_byte_ms = float(metrics.first_byte_ms)
            elif metrics.first_byte_ms <= health.SLOW_RATIO * usual:
                self.usual_first_byte_ms = usual + BASELINE_WEIGHT * (metrics.first_byte_ms - usual)

    def score(self, now: float, silence: Silence) -> int:
        """Its health now."""
        self.scored_at = now
        if self.status == "dead":
            return 0
        node = self.node
        metrics = node.metrics
        self.ooms.see(metrics.oom_count, now)
        self.restarts.see(node.load.engine_restarts, now)
        said = self.testimony(now)
        gateways = round(self.calls.succeeded + self.calls.failed)
        return health.score(
            health.Signs(
                silent_s=0.0 if said.refuted else said.silent_s,
                # Gateways see what clients see; a node's own word stands in where they are too few.
                calls=gateways if gateways >= health.MIN_CALLS else metrics.calls,
                failed_calls=round(self.calls.failed) if gateways >= health.MIN_CALLS else metrics.failed_calls,
                first_byte_ms=metrics.first_byte_ms,
                usual_first_byte_ms=self.usual_first_byte_ms,
                temperature_celsius=metrics.gpu_temperature_celsius,
                oom_recent=self.ooms.count,
                restarts_recent=self.restarts.count,
                memory_fragmentation=(
                    metrics.memory_fragmentation if metrics.HasField("memory_fragmentation") else None
                ),
            ),
            silence,
        )

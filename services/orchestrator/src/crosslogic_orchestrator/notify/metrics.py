"""What notifications tell Prometheus."""

from typing import get_args

from prometheus_client import Counter, Gauge

from crosslogic_common.metrics import Metrics
from crosslogic_orchestrator.notify.domain import Channel


class NotifyMetrics:
    """Attempts, dead letters, and what waits."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self.attempts = Counter(
            "crosslogic_notification_attempts",
            "Attempts to send: sent, failed (tried again) or dead (given up).",
            ["channel", "outcome"],
            registry=registry,
        )
        for channel in get_args(Channel):
            for outcome in ("sent", "failed", "dead"):
                self.attempts.labels(channel, outcome)
        self.dead = Gauge(
            "crosslogic_notification_dead_letters",
            "Deliveries that were given up, of the operators' routes and of organisations'.",
            ["whose"],
            registry=registry,
        )
        self.behind = Gauge(
            "crosslogic_notification_behind_seconds",
            "For how long the oldest delivery that is due has waited.",
            ["whose"],
            registry=registry,
        )
        self.source_failing = Gauge(
            "crosslogic_notification_source_failing",
            "1: a source of events could not be read when it was last tried.",
            ["source"],
            registry=registry,
        )

"""What operators see of admission."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from crosslogic_gateway.admission.limits import Layer


class AdmissionMetrics:
    """Counts refusals by layer and reason: kinds only, never whose."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._exceeded = Counter(
            "rate_limit_exceeded",
            "Requests refused, by the layer that refused and why.",
            ["layer", "reason"],
            registry=registry,
        )
        self.remaining = Gauge(
            "rate_limit_remaining",
            "Of the limits of callers seen lately, the smallest share that was left, 0 to 1, by layer.",
            ["layer"],
            registry=registry,
        )
        self._budgets = Counter(
            "crosslogic_budget_thresholds",
            "Hard budgets of which 50, 80 or 100 percent were seen spent or held, each once a worker and period.",
            ["percent"],
            registry=registry,
        )
        self.admitted_locally = Counter(
            "crosslogic_admitted_locally",
            "Requests let in by this worker's share of the limits, Redis being away.",
            registry=registry,
        )

    def budget_passed(self, percent: int) -> None:
        """Notes that a hard budget is spent or held to this share."""
        self._budgets.labels(str(percent)).inc()

    def refused(self, layer: Layer, reason: str) -> None:
        """Notes a refusal."""
        self._exceeded.labels(layer, reason).inc()

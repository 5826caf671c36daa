"""What billing counts."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class BillingMetrics:
    """Billing's metrics, in the process's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tokens = Counter("billing_tokens", "Tokens settled from the usage ledger.", registry=registry)
        self._cost = Counter(
            "billing_cost", "What settled usage comes to at its prices, in dollars.", registry=registry
        )
        self._cost_differs = Counter(
            "billing_cost_differs",
            "Rows of the ledger whose cost is not what their counts and prices say.",
            registry=registry,
        )
        self._exports = Counter(
            "billing_exports",
            "Meter events sent, by status: delivered, duplicate, in_summary, retried, dead.",
            ["status"],
            registry=registry,
        )
        self._pushed = Counter("billing_records_pushed", "Meter events that Stripe has.", registry=registry)
        self._failed = Counter("billing_records_failed", "Meter events that became dead letters.", registry=registry)
        self._ledger_behind = Gauge(
            "billing_ledger_behind_rows", "Rows of the usage ledger that are not settled yet.", registry=registry
        )
        self._outbox = Gauge(
            "billing_outbox_events", "Meter events, by state: pending, dead.", ["state"], registry=registry
        )
        self._oldest = Gauge(
            "billing_outbox_oldest_seconds", "How long the oldest pending meter event has waited.", registry=registry
        )
        self._unexplained = Gauge(
            "billing_reconciliation_unexplained",
            "Differences of the last reconciliation that nothing explains.",
            registry=registry,
        )
        self._terms_age = Gauge(
            "billing_terms_age_seconds", "How long ago identity was read, whose plans charges go by.", registry=registry
        )
        self._webhooks = Counter(
            "billing_webhooks",
            "Webhooks, by result: handled, repeated, refused, failed, ignored.",
            ["result"],
            registry=registry,
        )

    def settled(self, *, tokens: int, cost_picodollars: int) -> None:
        """A page of the ledger was settled."""
        self._tokens.inc(tokens)
        self._cost.inc(cost_picodollars / 1e12)

    def cost_differs(self, rows: int) -> None:
        """Rows were rated otherwise than their prices say."""
        self._cost_differs.inc(rows)

    def ledger_behind(self, rows: int) -> None:
        """How far the ledger is ahead of us."""
        self._ledger_behind.set(max(rows, 0))

    def exported(self, status: str) -> None:
        """An attempt to deliver a meter event ended."""
        self._exports.labels(status).inc()
        if status in ("delivered", "duplicate", "in_summary"):
            self._pushed.inc()
        elif status == "dead":
            self._failed.inc()

    def outbox(self, *, pending: int, dead: int, oldest_s: float) -> None:
        """How the outbox stands."""
        self._outbox.labels("pending").set(pending)
        self._outbox.labels("dead").set(dead)
        self._oldest.set(oldest_s)

    def reconciled(self, unexplained: int) -> None:
        """A reconciliation ended."""
        self._unexplained.set(unexplained)

    def terms_age(self, seconds: float) -> None:
        """So long ago identity was read."""
        self._terms_age.set(max(seconds, 0.0))

    def webhook(self, result: str) -> None:
        """A webhook came."""
        self._webhooks.labels(result).inc()

"""The accountant's metrics."""

from prometheus_client import CollectorRegistry, Counter, Histogram

_BATCH_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096)
_COMMIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class LedgerMetrics:
    """Counted once a batch where a record's cost matters."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.records = Counter(
            "crosslogic_accountant_records",
            "Usage records by what became of them: stored, duplicate or refused.",
            ["result"],
            registry=registry,
        )
        self.created = Counter(
            "usage_records_created",
            "Usage records that became durable: gateways' own, and those made of a witness alone.",
            registry=registry,
        )
        self.corrected = Counter(
            "crosslogic_accountant_corrected", "Records that took a witness's place.", registry=registry
        )
        self.conflicting = Counter(
            "crosslogic_accountant_conflicting",
            "Second records of one request that said something else and were not stored.",
            registry=registry,
        )
        self.above_bound = Counter(
            "crosslogic_accountant_above_bound",
            "Records of gateways that count more than their request could use. Stored as reported.",
            registry=registry,
        )
        self.witnesses = Counter(
            "crosslogic_accountant_witnesses",
            "Witnesses by what became of them: stored or refused.",
            ["result"],
            registry=registry,
        )
        self.settled = Counter(
            "crosslogic_accountant_settled", "Records written from a witness alone.", registry=registry
        )
        self.differences = Counter(
            "crosslogic_accountant_witness_differences",
            "Witnesses that count other tokens than the gateway.",
            registry=registry,
        )
        self.stray_months = Counter(
            "crosslogic_accountant_stray_months",
            "Attempts to make a month's partition that found its rows in the default one.",
            registry=registry,
        )
        self.rolled_up = Counter(
            "crosslogic_accountant_rolled_up", "Rows of the ledger that were added to the rollups.", registry=registry
        )
        self.rollup_differences = Counter(
            "crosslogic_accountant_rollup_differences",
            "Hourly sums that were not what their records say, and were made anew.",
            registry=registry,
        )
        self.dropped_months = Counter(
            "crosslogic_accountant_dropped_months", "Months of records that were dropped.", registry=registry
        )
        self.batch_size = Histogram(
            "crosslogic_accountant_batch_size",
            "Items a commit.",
            ["writer"],
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "crosslogic_accountant_commit_seconds",
            "Time a commit took.",
            ["writer"],
            buckets=_COMMIT_BUCKETS_S,
            registry=registry,
        )
        self.commit_failures = Counter(
            "crosslogic_accountant_commit_failures",
            "Commits that failed or whose outcome is not known, and that are tried again.",
            ["writer"],
            registry=registry,
        )

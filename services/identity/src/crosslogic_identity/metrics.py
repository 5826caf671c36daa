"""What identity counts."""

from prometheus_client import Counter, Gauge

from crosslogic_common.metrics import Metrics


class IdentityMetrics:
    """Identity's metrics, in the process's registry."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self._resolves = Counter(
            "crosslogic_identity_resolves",
            "Keys resolved, by result: found, refused (unknown, revoked, expired), suspended.",
            ["result"],
            registry=registry,
        )
        self._cache_writes = Counter(
            "crosslogic_identity_cache_writes",
            "Principals for the cache in Redis, by result: stored, failed, dropped (too many at once).",
            ["result"],
            registry=registry,
        )
        self._cache_behind = Gauge(
            "crosslogic_identity_cache_behind",
            "1 while Redis could not be told of a revocation.",
            registry=registry,
        )
        self._watchers = Gauge(
            "crosslogic_identity_watchers", "Gateway workers that watch revocations here.", registry=registry
        )
        self._pushes = Counter(
            "crosslogic_identity_pushes",
            "What was pushed to all watchers, by scope: org, environment, api_key, resync (everything).",
            ["scope"],
            registry=registry,
        )

    def resolved(self, result: str) -> None:
        """A key was resolved, or not."""
        self._resolves.labels(result).inc()

    def cache_write(self, result: str) -> None:
        """A principal went to the cache, or did not."""
        self._cache_writes.labels(result).inc()

    def cache_behind(self, *, behind: bool) -> None:
        """Whether Redis still holds what it should not."""
        self._cache_behind.set(behind)

    def watchers(self, count: int) -> None:
        """How many watch."""
        self._watchers.set(count)

    def pushed(self, scope: str) -> None:
        """All watchers were told."""
        self._pushes.labels(scope).inc()

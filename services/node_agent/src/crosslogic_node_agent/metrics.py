"""The agent's metrics."""

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from crosslogic_common.metrics import Metrics
from crosslogic_node_agent.domain import CallCounts, Ending, MachineState, TokenCount

_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class AgentMetrics:
    """What one agent counts."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self._calls = Counter(
            "crosslogic_node_calls", "Calls relayed to the engine, by how they ended.", ["ending"], registry=registry
        )
        self._tokens = Counter("crosslogic_node_tokens", "Tokens that the engine counted.", ["kind"], registry=registry)
        self._uncounted = Counter(
            "crosslogic_node_uncounted_calls",
            "Calls that were answered, or whose client went away, and whose tokens the engine did not tell.",
            registry=registry,
        )
        self._seconds = Histogram(
            "crosslogic_node_call_seconds", "Time from open to end.", buckets=_BUCKETS_S, registry=registry
        )
        self.running = Gauge("crosslogic_node_calls_running", "Calls under way.", registry=registry)
        self.engine_restarts = Counter(
            "crosslogic_node_engine_restarts", "Times the engine was started again.", registry=registry
        )
        self.model_load_seconds = Gauge(
            "crosslogic_node_model_load_seconds",
            "What the engine's last start took, until it answered: mostly loading the model. 0: never started here.",
            registry=registry,
        )
        self.gpu_temperature = Gauge(
            "crosslogic_node_gpu_temperature_celsius", "The hottest accelerator. 0: none.", registry=registry
        )
        self.gpu_utilization = Gauge(
            "crosslogic_node_gpu_utilization_ratio", "The busiest accelerator, 0 to 1.", registry=registry
        )
        self.vram_used = Gauge("crosslogic_node_vram_used_bytes", "Memory of accelerators in use.", registry=registry)
        self.vram_total = Gauge("crosslogic_node_vram_total_bytes", "Memory of accelerators.", registry=registry)
        self.disk_free = Gauge(
            "crosslogic_node_disk_free_bytes", "Free space of the file system of the weights.", registry=registry
        )
        self.witnesses_waiting = Gauge(
            "crosslogic_node_witnesses_waiting", "Witnesses that are not acknowledged yet.", registry=registry
        )
        self.witnesses_lost = Counter(
            "crosslogic_node_witnesses_lost", "Witnesses that the full spool could not take.", registry=registry
        )
        self.log_lines_dropped = Gauge(
            "crosslogic_node_log_lines_dropped",
            "Log lines since the start that more came of than could be shipped.",
            registry=registry,
        )
        self.registry_connected = Gauge(
            "crosslogic_node_registry_connected", "1 while the heartbeat stream is open.", registry=registry
        )

        self._lately = [0, 0, 0]
        self._first_bytes_s = 0.0
        self.calls_running: Callable[[], int] = lambda: 0
        self.prompt_tokens_total = 0
        self.completion_tokens_total = 0

    def follow_running(self, running: Callable[[], int]) -> None:
        """`running` tells how many calls are under way."""
        self.calls_running = running
        self.running.set_function(running)

    def machine(self, state: MachineState) -> None:
        """How the machine is."""
        self.gpu_temperature.set(state.gpu_temperature_celsius)
        self.gpu_utilization.set(state.gpu_utilization)
        self.vram_used.set(state.vram_used_bytes)
        self.vram_total.set(state.vram_total_bytes)
        self.disk_free.set(state.disk_free_bytes)

    def take_calls(self) -> CallCounts:
        """The calls that ended since the last look."""
        calls, failed, answered = self._lately
        mean_s = self._first_bytes_s / answered if answered else 0.0
        self._lately, self._first_bytes_s = [0, 0, 0], 0.0
        return CallCounts(calls, failed, round(mean_s * 1000))

    def ended(self, ending: Ending, count: TokenCount, duration_s: float, first_byte_s: float | None) -> None:
        """A call ended; `first_byte_s` after its start the engine's first byte came, if one did."""
        if ending is not Ending.CLIENT_DISCONNECTED:
            lately = self._lately
            lately[0] += 1
            lately[1] += ending is not Ending.SUCCEEDED
            if first_byte_s is not None:
                lately[2] += 1
                self._first_bytes_s += first_byte_s
        self._calls.labels(ending).inc()
        self._seconds.observe(duration_s)
        if count.prompt_tokens:
            self._tokens.labels("prompt").inc(count.prompt_tokens)
        if count.completion_tokens:
            self._tokens.labels("completion").inc(count.completion_tokens)
        self.prompt_tokens_total += count.prompt_tokens
        self.completion_tokens_total += count.completion_tokens
        if ending in (Ending.CLIENT_DISCONNECTED, Ending.SUCCEEDED) and count.source == "none":
            self._uncounted.inc()

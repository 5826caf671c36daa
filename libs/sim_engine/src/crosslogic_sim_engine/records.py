"""What was generated for whom: the truth that tests compare bills with, and vLLM's metrics."""

import time
from collections import OrderedDict

import msgspec

MAX_RECORDS = 20_000


class RequestRecord(msgspec.Struct, kw_only=True):
    """One request, as GET /sim/requests/{id} shows it. Times are Unix times in seconds."""

    id: str
    path: str
    stream: bool
    prompt_tokens: int
    started_at: float
    first_token_at: float | None = None
    finished_at: float | None = None
    generated: int = 0
    aborted: bool = False
    aborted_at: float | None = None
    finish_reason: str | None = None
    cache_salt: str = ""
    traceparent: str = ""
    earlier_attempts: int = 0
    """Requests with the same id that this engine got before, and that this record replaced."""
    earlier_generated: int = 0
    """The tokens of those."""


class Records:
    """The last requests, by their X-Request-Id; the oldest go first when there are too many."""

    def __init__(self, *, limit: int = MAX_RECORDS) -> None:
        self._limit = limit
        self._by_id: OrderedDict[str, RequestRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def begin(
        self, request_id: str, *, path: str, stream: bool, prompt_tokens: int, cache_salt: str, traceparent: str = ""
    ) -> RequestRecord:
        """A new record."""
        record = RequestRecord(
            id=request_id,
            path=path,
            stream=stream,
            prompt_tokens=prompt_tokens,
            started_at=time.time(),
            cache_salt=cache_salt,
            traceparent=traceparent,
        )
        earlier = self._by_id.pop(request_id, None)
        if earlier is not None:
            record.earlier_attempts = earlier.earlier_attempts + 1
            record.earlier_generated = earlier.earlier_generated + earlier.generated
        elif len(self._by_id) >= self._limit:
            self._by_id.popitem(last=False)
        self._by_id[request_id] = record
        return record

    def get(self, request_id: str) -> RequestRecord | None:
        """The record of a request; None when there is none, or no more."""
        return self._by_id.get(request_id)


class Counters:
    """Sums since the start, as vLLM counts: an aborted request is in no `success`, its tokens are in the tokens."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.finished: dict[str, int] = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        self.aborted = 0
        self.peak_running = 0

    def metrics(self, *, model: str, running: int, waiting: int, used_part: float) -> bytes:
        """The text of GET /metrics."""
        label = f'{{engine="0",model_name="{model}"}}'
        lines: list[str] = []
        for name, kind, value in (
            ("num_requests_running", "gauge", running),
            ("num_requests_waiting", "gauge", waiting),
            ("kv_cache_usage_perc", "gauge", used_part),
            ("prompt_tokens_total", "counter", self.prompt_tokens),
            ("generation_tokens_total", "counter", self.generated_tokens),
            ("prompt_tokens_cached_total", "counter", 0),
            ("prefix_cache_queries_total", "counter", self.prompt_tokens),
            ("prefix_cache_hits_total", "counter", 0),
            ("num_preemptions_total", "counter", 0),
        ):
            lines += (f"# HELP vllm:{name} Simulated.", f"# TYPE vllm:{name} {kind}")
            lines.append(f"vllm:{name}{label} {float(value)}")
        lines += ("# HELP vllm:request_success_total Simulated.", "# TYPE vllm:request_success_total counter")
        for reason, count in self.finished.items():
            labels = f'{{engine="0",finished_reason="{reason}",model_name="{model}"}}'
            lines.append(f"vllm:request_success_total{labels} {float(count)}")
        return ("\n".join(lines) + "\n").encode()

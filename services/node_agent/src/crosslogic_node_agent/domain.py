"""The words of the agent."""

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit


class CountSource(StrEnum):
    """How a count of tokens was obtained; never an estimate."""

    NONE = "none"
    RUNNING = "running"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of one request."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    source: CountSource = CountSource.NONE


class Ending(StrEnum):
    """How a call ended for the node."""

    SUCCEEDED = "succeeded"
    CLIENT_DISCONNECTED = "client_disconnected"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where the engine listens: host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    socket_path: str = ""

    @classmethod
    def parse(cls, text: str) -> "EngineAddress":
        """Reads `http://host:port` or `unix:/path`. Raises ValueError."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError(f"must be unix:/path or http://host:port, not {text!r}")
            return cls(socket_path=path)
        parts = urlsplit(text)
        if parts.scheme != "http" or not parts.hostname or parts.port is None or parts.path not in ("", "/"):
            raise ValueError(f"must be http://host:port or unix:/path, not {text!r}")
        return cls(host=parts.hostname, port=parts.port)


class EngineStatus(StrEnum):
    """Where the engine is in its life."""

    STARTING = "starting"
    """Not answering yet, or being measured."""
    READY = "ready"
    DOWN = "down"
    """It died or hangs; it is being started again."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """How the engine is, and why, for people. The reason names no secret: it is shown to operators."""

    status: EngineStatus
    reason: str = ""
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine says it is."""

    version: str = ""
    name: str = "vllm"
    served_models: tuple[str, ...] = ()
    context_length: int = 0
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the engine was measured to do, in tokens per second. 0: not measured."""

    max_tokens_per_sec: float = 0.0
    prefill_tokens_per_sec: float = 0.0
    decode_tokens_per_sec: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The engine's own metrics at one moment."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    prompt_tokens_total: int = 0
    generation_tokens_total: int = 0
    prefix_queries_total: int = 0
    """Prompt tokens that were looked for in the prefix cache."""
    prefix_hits_total: int = 0
    """Of them, those that it held."""
    read_at: float = field(default=0.0, compare=False)
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class MachineState:
    """The machine at one moment, as its drivers tell."""

    gpu_type: str = ""
    gpu_count: int = 0
    driver_version: str = ""
    gpu_utilization: float = 0.0
    """Of the busiest one, 0 to 1."""
    gpu_temperature_celsius: int = 0
    """Of the hottest one."""
    vram_used_bytes: int = 0
    vram_total_bytes: int = 0
    disk_free_bytes: int = 0
    disk_total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CallCounts:
    """Calls that ended within some time; not those whose client left."""

    calls: int = 0
    failed: int = 0
    first_byte_ms: int = 0
    """The mean of those that answered."""

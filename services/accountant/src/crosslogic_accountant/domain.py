"""The words of the ledger."""

from dataclasses import dataclass
from enum import IntEnum


class Outcome(IntEnum):
    """How a request ended; the numbers are crosslogic.common.v1.Outcome's and are stored."""

    SUCCEEDED = 1
    CLIENT_DISCONNECTED = 2
    FAILED = 3
    TIMED_OUT = 4


class CountSource(IntEnum):
    """How tokens were counted; the numbers are crosslogic.common.v1.CountSource's and are stored."""

    ENGINE_FINAL = 1
    ENGINE_RUNNING = 2
    NONE = 3


@dataclass(frozen=True, slots=True)
class Terms:
    """What many requests of one key share: who is served, with what, where, at which price."""

    org_id: bytes
    """16 bytes of a UUID, as are the next two."""
    environment_id: bytes
    api_key_id: bytes
    model: str
    api: str
    region: str
    node_id: str
    prompt_price_picodollars: int
    completion_price_picodollars: int
    max_total_tokens: int
    """0: unknown."""
    cached_prompt_price_picodollars: int | None = None
    """Of a prompt token that a prefix cache held. None: as any prompt token."""
    price_version: str = ""
    """Empty: the catalogue's price."""
    plan: str = ""

    def __hash__(self) -> int:
        """Of the parts that differ most, and whose own hashes Python remembers."""
        return hash((self.api_key_id, self.node_id))


# Counts, UsageRecord and LedgerRow are made for every record, and a frozen dataclass takes three times as long to make:
# together a fifth of what a record costs this process before it is sent. Nobody changes one.


@dataclass(slots=True, unsafe_hash=True)
class Counts:
    """The tokens of one request."""

    prompt_tokens: int
    cached_prompt_tokens: int
    """Of the prompt tokens."""
    completion_tokens: int
    source: int
    """A CountSource."""


@dataclass(slots=True, unsafe_hash=True)
class UsageRecord:
    """One request as it is charged."""

    request_id: bytes
    """16 bytes of a UUIDv7: they sort by time."""
    terms: Terms
    counts: Counts
    start_time_us: int
    """Microseconds since the epoch."""
    stream: bool
    outcome: int
    """An Outcome."""
    latency_us: int
    time_to_first_token_us: int
    http_status: int
    cost_picodollars: int
    from_witness: bool = False
    attempts: int = 1
    """Nodes that worked on it."""
    failed_over: bool = False
    region_failover: bool = False
    resumed: bool = False


@dataclass(slots=True, unsafe_hash=True)
class LedgerRow:
    """A record as one row of the ledger."""

    record: UsageRecord
    revision: int = 0
    corrects: int | None = None
    """The revision that this row reverses or replaces."""
    requests: int = 1
    """1, or -1: a reversal, all of whose amounts count negative."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A node's own count of one request, its seal opened."""

    request_id: bytes
    node_id: str
    context: bytes
    """The serialised RequestContext."""
    counts: Counts
    outcome: int
    duration_us: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a node's count is not the gateway's."""

    witness: Witness
    gateway_counts: Counts
    gateway_outcome: int

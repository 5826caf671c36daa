"""The words of the scheduler."""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


class Strategy(enum.Enum):
    """How a node is chosen among those that may serve a request."""

    LEAST_LOAD = "least load"
    ROUND_ROBIN = "round robin"
    LEAST_CONNECTIONS = "least connections"
    LEAST_LATENCY = "least latency"
    PREFIX_AFFINITY = "prefix affinity"


class Tier(enum.IntEnum):
    """How good a candidate a node is. A later tier is used where the ones before have nobody left."""

    SOUND = 0
    SPARED = 1
    """Ejected for what gateways saw of it, or its cloud says that it may take the machine soon."""
    SILENT = 2
    """Its heartbeats do not come."""


@dataclass(slots=True, eq=False)
class NodeState:
    """An active node as far as picking needs it. Its load changes in place with each heartbeat and each pick."""

    id: str
    address: str
    """host:port that gateways dial."""
    region: str
    org_id: str
    """The only organisation it serves. Empty: any."""
    models: frozenset[str]
    reachable: bool
    capacity: float
    """The most tokens per second that it can generate. More than 0."""
    load: float = 0.0
    """Tokens per second asked of it over the most it can generate; 1 is full. Grows by `step` with each pick."""
    step: float = 0.0
    """What one more request adds to `load`."""
    heartbeat_ns: int = 0
    """When it was last heard of, nanoseconds since the epoch; 0: never."""
    at_risk: bool = False
    """Its cloud says that it may take the machine soon."""
    ejected: bool = False
    """It failed or lagged, by what gateways saw."""
    connections: int = 0
    """Requests that run and wait there: by its last heartbeat, and picked since."""
    latency_us: float = 0.0
    """Time to the first byte, as gateways saw it lately. 0: not known."""
    prefill_tokens_per_sec: float = 0.0
    """Prompt tokens per second that it reads. More than 0."""
    reads_until: float = 0.0
    """When it will have read the prompts that it was sent, on the picking clock, in seconds."""

    @property
    def tier(self) -> Tier:
        """Where it is looked for."""
        if not self.reachable:
            return Tier.SILENT
        return Tier.SPARED if self.ejected or self.at_risk else Tier.SOUND


class Question(Protocol):
    """A request that needs a node. Named as in the contract: scheduler.v1.PickRequest is one as it comes."""

    @property
    def model(self) -> str:
        """Catalogue name."""

    @property
    def org_id(self) -> str:
        """Empty: nobody's."""

    @property
    def region(self) -> str:
        """Empty: anywhere."""

    @property
    def excluded_node_ids(self) -> Collection[str]:
        """Nodes that already failed it."""

    @property
    def session_key(self) -> int:
        """0: of no session."""

    @property
    def prefix_hashes(self) -> Sequence[int]:
        """Of the prompt's beginnings, shortest first. Empty: not known."""

    @property
    def client_key(self) -> int:
        """0: the organisation stands for its client."""

    @property
    def residency_pinned(self) -> bool:
        """It never leaves its region."""

    @property
    def allowed_regions(self) -> Sequence[str]:
        """Every region that it may run in, the preferred one first. Empty: any."""

    @property
    def prompt_tokens(self) -> int:
        """Of the prompt alone, an estimate. 0: not known."""

    @property
    def reserved(self) -> bool:
        """It is within capacity that its organisation has reserved."""


Picked = tuple[NodeState, bool]
"""Where a request goes, and whether that is in another region because its own is down."""

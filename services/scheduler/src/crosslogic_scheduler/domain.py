"""The words of the scheduler."""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple


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
    """Prompt tokens per second that it reads. 0: not measured."""

    @property
    def tier(self) -> Tier:
        """Where it is looked for."""
        if not self.reachable:
            return Tier.SILENT
        return Tier.SPARED if self.ejected or self.at_risk else Tier.SOUND


@dataclass(slots=True)
class Question:
    """A request that needs a node."""

    model: str
    org_id: str = ""
    region: str = ""
    """Empty: anywhere."""
    excluded: Collection[str] = ()
    """Nodes that already failed it."""
    session_key: int = 0
    """0: of no session."""
    prefix_hashes: Sequence[int] = ()
    client_key: int = 0
    """0: the organisation stands for its client."""
    residency_pinned: bool = False
    reserved: bool = False
    estimated_tokens: int = 0


class Picked(NamedTuple):
    """Where a request goes."""

    node: NodeState
    region_failover: bool
    """Its own region is down."""

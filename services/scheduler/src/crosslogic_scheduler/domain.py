"""The words of the scheduler."""

from dataclasses import dataclass


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

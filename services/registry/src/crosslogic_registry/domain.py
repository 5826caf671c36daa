"""The words of the registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from crosslogic.registry.v1 import registry_pb2 as pb

Status = Literal["registering", "warming", "active", "draining", "dead"]
STATUSES: tuple[Status, ...] = ("registering", "warming", "active", "draining", "dead")

STATUS_TO_PB: Mapping[Status, "pb.NodeStatus.ValueType"] = MappingProxyType(
    {
        "registering": pb.NODE_STATUS_REGISTERING,
        "warming": pb.NODE_STATUS_WARMING,
        "active": pb.NODE_STATUS_ACTIVE,
        "draining": pb.NODE_STATUS_DRAINING,
        "dead": pb.NODE_STATUS_DEAD,
    }
)
STATUS_FROM_PB: Mapping[int, Status] = MappingProxyType({value: name for name, value in STATUS_TO_PB.items()})


MAX_NODES = 50_000
"""One registry's fleet, the dead of the last day included. Beyond it nobody joins."""


@dataclass(frozen=True, slots=True)
class StoredNode:
    """A node as the database keeps it."""

    id: str
    org_id: str
    """The only organisation that it may serve. Empty: any."""
    status: Status
    status_reason: str
    drain_asked: bool
    """An operator wants it drained."""
    facts: pb.NodeFacts
    created_at: datetime
    changed_at: datetime
    """When its status last changed."""


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A step in a node's life, to be kept."""

    node_id: str
    status: Status
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """A step in a node's life, as it was kept."""

    number: int
    """Grows with time. More than 0."""
    status: Status
    reason: str
    at: datetime


_SILENT = "not heard of for"


def silence_reason(silent_s: float) -> str:
    """Why a node is dead that did not say so itself."""
    return f"{_SILENT} {silent_s:.0f} s"


def is_silence(reason: str) -> bool:
    """Whether a node was given up for its silence, which a replica that hears it knows better."""
    return reason.startswith(_SILENT)


Link = Literal["here", "elsewhere", "broken"]
"""Where a node's heartbeats arrive: on a stream of this replica (or, after a restart, as they did before it), on
another replica's, or nowhere since the stream broke."""


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a node may be silent, in seconds."""

    suspect_s: float = 3.0
    """After its stream broke, until it counts as unreachable."""
    unhealthy_s: float = 15.0
    """With its stream open, until it counts as unreachable."""
    dead_s: float = 60.0
    """Until it counts as dead."""
    forgotten_s: float = 86_400.0
    """After its death, until watchers are told to forget it."""

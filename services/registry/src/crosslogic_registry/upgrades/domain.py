"""The words of model upgrades."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal, Self

from crosslogic.registry.v1 import registry_pb2
from crosslogic.registry.v1 import upgrades_pb2 as pb

Phase = Literal["waiting", "shifting", "finishing", "draining", "done", "rolled_back"]
UNDER_WAY: tuple[Phase, ...] = ("waiting", "shifting", "finishing", "draining")

PHASE_TO_PB: Mapping[Phase, "pb.UpgradePhase.ValueType"] = MappingProxyType(
    {
        "waiting": pb.UPGRADE_PHASE_WAITING,
        "shifting": pb.UPGRADE_PHASE_SHIFTING,
        "finishing": pb.UPGRADE_PHASE_FINISHING,
        "draining": pb.UPGRADE_PHASE_DRAINING,
        "done": pb.UPGRADE_PHASE_DONE,
        "rolled_back": pb.UPGRADE_PHASE_ROLLED_BACK,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How an upgrade proceeds. Times are in seconds, shares 0 to 1."""

    steps_percent: tuple[int, ...] = (5, 25, 50, 100)
    """Shares of traffic of the new version, rising; the last is 100."""
    step_s: int = 300
    """Least time at each step."""
    step_requests: int = 100
    """Least number of requests that the new version has at each step."""
    max_error_share: float = 0.02
    """Failed requests by which the new version may exceed the old one."""
    max_first_token_ratio: float = 1.5
    """Mean time to the first token over the old version's."""
    first_token_slack_s: float = 0.05
    """What first tokens may come later whatever the ratio."""
    min_nodes: int = 1
    """Nodes of the new version before it gets traffic."""
    wait_s: int = 3_600
    """How long they are waited for."""
    lost_s: int = 30
    """How long none of them may serve."""
    finish_s: int = 600
    """How long what runs on the old version may take to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An upgrade that is asked for."""

    model: str
    from_version: str | None
    """None: not named."""
    guess: str | None
    """What all nodes that serve name. None: they do not agree."""
    to_version: str
    rules: Rules


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests of one version, as gateways saw them."""

    succeeded: int = 0
    failed: int = 0
    first_bytes: int = 0
    """Answered requests whose time to the first token is known."""
    first_byte_us: int = 0
    """These times, added up, in microseconds."""

    def __add__(self, other: Self) -> "Counts":
        return Counts(
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.first_bytes + other.first_bytes,
            self.first_byte_us + other.first_byte_us,
        )

    @property
    def requests(self) -> int:
        """All of them."""
        return self.succeeded + self.failed

    @property
    def failed_share(self) -> float:
        """0 to 1."""
        return self.failed / self.requests if self.requests else 0.0

    @property
    def first_token_s(self) -> float:
        """The mean. 0: not known."""
        return self.first_byte_us / self.first_bytes / 1e6 if self.first_bytes else 0.0


NOTHING = Counts()


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What was seen of both versions."""

    new: Counts = NOTHING
    """At this step."""
    old: Counts = NOTHING
    """At this step."""
    old_in_all: Counts = NOTHING
    """Since the upgrade began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """A model on its way from one version to another, as it is stored."""

    number: int
    """Grows with time. More than 0."""
    id: str
    model: str
    from_version: str
    """Empty: the nodes that name no version."""
    to_version: str
    phase: Phase
    step: int
    """Of `rules.steps_percent`, from 0; one more than the last from finishing on."""
    reason: str
    rules: Rules
    created_at: datetime
    changed_at: datetime
    for_s: float
    """Since `changed_at`, by the database's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The nodes of both versions, as this replica knows them."""

    new_nodes: int
    """Nodes of the new version that serve."""
    old_nodes: int
    """Nodes of the old version that serve."""
    old_undrained: int
    """Nodes of the old version that are not being drained."""
    old_requests: int
    """Requests that run or wait on the old version's nodes, by their last heartbeats."""
    heartbeat_s: float
    """How old these may be."""
    lost_s: float = 0.0
    """For how long no node of the new version has served."""


@dataclass(frozen=True, slots=True)
class Move:
    """What an upgrade becomes."""

    phase: Phase
    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Share:
    """As registry.v1.VersionShare."""

    version: str
    per_mille: int

    def message(self) -> registry_pb2.VersionShare:
        """For the contract."""
        return registry_pb2.VersionShare(version=self.version, per_mille=self.per_mille)

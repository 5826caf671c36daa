"""The words of the scheduler."""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_READING_S = 60.0
"""The longest that a node is taken to have to read: what is thought to wait there is only an estimate."""


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
    """Ejected for what gateways saw of it, unwell, or its cloud says that it may take the machine soon."""
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
    version: str = ""
    """Of its models, as it names it."""
    load: float = 0.0
    """Tokens per second asked of it over the most it can generate; 1 is full. Grows by `step` with each pick."""
    step: float = 0.0
    """What one more request adds to `load`."""
    heartbeat_ns: int = 0
    """When it was last heard of, nanoseconds since the epoch; 0: never."""
    at_risk: bool = False
    """Its cloud says that it may take the machine soon, or the registry finds it unwell."""
    ejected: bool = False
    """It failed or lagged, by what gateways saw."""
    handicap: float = 0.0
    """What its health adds to its load wherever nodes are compared: 0 for one that is well."""
    turns_lost: float = 0.0
    """Part of a turn that it has lost for its health, round robin."""
    delivered: float = 0.0
    """Tokens per second that it generates over the most it can, by its last heartbeat."""
    connections: int = 0
    """Requests that run and wait there: by its last heartbeat, and picked since."""
    latency_us: float = 0.0
    """Time to the first byte, as gateways saw it lately. 0: not known."""
    prefill_tokens_per_sec: float = 0.0
    """Prompt tokens per second that it reads. More than 0."""
    reads_until: float = 0.0
    """When it will have read the prompts that it was sent, on the picking clock, in seconds."""

    horizon_tokens: float = 1.0
    """What one request generates until the next heartbeat, if its answer is long enough. More than 0."""
    picks: int = 0
    """Requests picked since the last heartbeat and not told of as ended."""
    picks_load: float = 0.0
    """What these added to `load`."""

    def send(self, answer_tokens: int, reading_s: float, now: float) -> None:
        """A request is on its way: it counts until its end is told or a heartbeat shows what the node does.

        `answer_tokens` is the most that it may generate, 0: not known; `reading_s` how long its prompt takes to read.
        """
        added = self.step
        if 0 < answer_tokens < self.horizon_tokens:
            added *= answer_tokens / self.horizon_tokens
        self.load += added
        self.picks_load += added
        self.picks += 1
        self.connections += 1
        if reading_s > 0.0:
            self.reads_until = min(max(self.reads_until, now) + reading_s, now + MAX_READING_S)

    def ended(self, requests: int) -> None:
        """So many requests ended: what was picked since the heartbeat counts no more. What it told of itself stays."""
        ended = min(requests, self.picks)
        if ended:
            gone = self.picks_load * ended / self.picks
            self.load -= gone
            self.picks_load -= gone
            self.picks -= ended
            self.connections -= ended

    def heard(self, *, heartbeat_ns: int, load: float, step: float, connections: int, delivered: float) -> None:
        """Its heartbeat: what was assumed since the last one is known now."""
        self.delivered = delivered
        self.heartbeat_ns, self.load, self.step, self.connections = heartbeat_ns, load, step, connections
        self.picks, self.picks_load = 0, 0.0
        if not connections:
            self.reads_until = 0.0

    def take_over(self, known: "NodeState") -> None:
        """Goes on from what was known of the same node at another place."""
        self.load, self.step, self.heartbeat_ns = known.load, known.step, known.heartbeat_ns
        self.connections, self.picks, self.picks_load = known.connections, known.picks, known.picks_load
        self.reads_until, self.latency_us, self.ejected = known.reads_until, known.latency_us, known.ejected
        self.delivered = known.delivered

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
    def estimated_tokens(self) -> int:
        """Of the prompt and the most that may be generated, an estimate. 0: not known."""

    @property
    def reserved(self) -> bool:
        """It is within capacity that its organisation has reserved."""


Picked = tuple[NodeState, bool]
"""Where a request goes, and whether that is in another region because its own is down."""

"""The words of scaling: a deployment, what is seen of it, and what is decided."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Mode = Literal["active", "dry_run", "paused"]
"""`dry_run` decides and writes down, and does nothing; `paused` does not even decide."""
Strategy = Literal["cost", "spread", "availability"]
Phase = Literal["launching", "ready", "leaving", "taken", "silent"]
"""`leaving`: this suite ends it. `taken`: its cloud takes it back, or it died: it costs no more within minutes.
`silent`: it looks dead as most of the fleet does, so that nobody ends it: it goes on costing."""
Signal = Literal["min", "reserved", "load", "backlog", "kv_cache", "first_token", "saturated", "forecast", "wake"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Where machines may be. Empty: anywhere."""

    providers: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    """By the suite's names; for a deployment without a region of its own."""
    instance_types: tuple[str, ...] = ()
    gpu: str = ""
    """The accelerator's name, in whatever case."""
    min_vram_bytes: int = 0
    """Of all accelerators of a machine together."""


ANYWHERE = Constraints()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model at a place, and within which bounds machines are kept for it."""

    id: str
    model: str
    region: str
    """Empty: wherever it is cheapest."""
    min_nodes: int = 0
    max_nodes: int = 1
    spot_share: float = 0.0
    """Of its machines, the share that may be spot: 0 to 1."""
    on_demand_floor: int = 0
    """So many are never spot, whatever the share."""
    warm_spares: int = 0
    """Machines that serve, beyond those that the load needs."""
    strategy: Strategy = "cost"
    constraints: Constraints = ANYWHERE
    max_spend_picodollars: int = 0
    """For an hour. 0: no limit."""
    slo_first_token_ms: int = 2_000
    """The 95th percentile of the time to the first token that is to be kept."""
    target_utilisation: float = 0.85
    """The share of the measured capacity that load may take, 0.05 to 1."""
    scale_up_cooldown_s: float = 10.0
    scale_down_cooldown_s: float = 300.0
    """So long a machine must not have been needed before it goes."""
    cold_start_wait_s: float = 60.0
    """How long a request waits for the first machine. 0: it does not."""
    cold_start_queue: int = 100
    """How many requests may wait at one gateway worker."""
    mode: Mode = "active"
    revision: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How a node is, by its heartbeats."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    tokens_per_s: float = 0.0
    capacity_tokens_per_s: float = 0.0
    """As measured. 0: not yet."""
    max_sequences: int = 0
    """Requests that it runs at once at most. 0: not known."""
    first_byte_ms: int = 0
    """Mean over the last quarter of a minute. 0: not known."""


IDLE = Load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A machine of a deployment, or another node that serves its model in its region."""

    id: str
    phase: Phase
    own: bool = True
    """The deployment launched it and may end it."""
    spot: bool = False
    at_risk: bool = False
    """Its cloud said that it may take it back soon."""
    price_picodollars: int = 0
    """For an hour."""
    place: str = ""
    replaced: bool = False
    """Another was asked for in its place."""
    since: datetime
    load: Load = IDLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A kind of machine that can be launched."""

    provider: str
    region: str
    """By the suite's name, where the region table has one; what a launch is asked for."""
    instance_type: str
    spot: bool
    price_picodollars: int
    """For an hour."""
    expected_price_picodollars: int
    """With what an interruption costs, as often as such machines are taken back."""
    gpu: str = ""
    vram_bytes: int = 0
    why: str = ""

    @property
    def place(self) -> str:
        """Provider, region and type in one word, as it is counted by."""
        return f"{self.provider}/{self.region}/{self.instance_type or 'any'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is known of a deployment at a moment."""

    now: datetime
    members: tuple[Member, ...] = ()
    held_requests: int = 0
    """Requests that gateways hold because no node serves the model."""
    reserved_tokens_per_s: float = 0.0
    """Capacity units sold: tokens per second that are promised."""
    forecast_tokens_per_s: float = 0.0
    """The most that the hourly pattern expects from now until a machine that is asked for now would serve."""
    tokens_per_request: float = 256.0
    """Generated, on average, lately."""
    capacity_tokens_per_s: float = 0.0
    """Of such a machine, as measured before; for while no node serves. 0: not known."""
    max_sequences: int = 0
    start_s: float = 120.0
    """How long machines lately took from the request to their first answer."""
    offers: tuple[Offer, ...] = ()
    """Best first."""


@dataclass(frozen=True, slots=True)
class Point:
    """What a decision was made from, as far as later ones need it."""

    at: datetime
    busy: float
    """Requests that ran, or would have with room for them: Erlangs."""
    waiting: int
    wanted: int
    """Machines that were found to be needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What came before."""

    points: tuple[Point, ...] = ()
    """Oldest first."""
    scaled_up_at: datetime | None = None
    scaled_down_at: datetime | None = None
    failed_launches: int = 0
    """In a row."""
    failed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What one signal asks for."""

    signal: Signal
    nodes: int
    why: str


@dataclass(frozen=True, slots=True)
class Launch:
    """A machine is asked for."""

    offer: Offer
    why: str
    replaces: str = ""
    """The machine in whose place it comes."""


@dataclass(frozen=True, slots=True)
class End:
    """A machine is drained and ended."""

    member_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now, and why."""

    desired: int
    """Own machines that should be there."""
    kept: int
    """Own machines that are there and stay, or are on their way."""
    needs: tuple[Need, ...]
    launches: tuple[Launch, ...] = ()
    ends: tuple[End, ...] = ()
    held: tuple[str, ...] = ()
    """What was not done, and what stood against it."""
    point: Point | None = None
    """To be remembered for later decisions."""

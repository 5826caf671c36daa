"""What the admin API takes and gives about deployments."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from crosslogic_gateway.admin.schemas import ModelName, NextPageToken, Time

Nodes = Annotated[int, Meta(ge=0, le=1000)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Mode = Annotated[
    Literal["active", "dry_run", "paused"],
    Meta(description="`dry_run` writes down what it would do and does nothing; `paused` leaves machines as they are."),
]
Usd = Annotated[str, Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,12})?\Z", description="Dollars, a decimal number.")]


class Constraints(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Where machines may be. Empty: anywhere."""

    providers: Annotated[list[Name], Meta(max_length=50)] = []
    regions: Annotated[list[Name], Meta(max_length=200, description="For a deployment without a region.")] = []
    instance_types: Annotated[list[Name], Meta(max_length=200)] = []
    gpu: Annotated[str, Meta(max_length=200)] = ""
    min_vram_bytes: Annotated[int, Meta(ge=0, le=2**53, description="Of all accelerators of a machine.")] = 0


class Wishes(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What a deployment asks for."""

    min_nodes: Nodes = 0
    max_nodes: Annotated[int, Meta(ge=1, le=1000)] = 1
    spot_share: Annotated[float, Meta(ge=0, le=1, description="The share of its machines that may be spot.")] = 0.0
    on_demand_floor: Annotated[int, Meta(ge=0, le=1000, description="So many machines are never spot.")] = 0
    warm_spares: Annotated[int, Meta(ge=0, le=1000, description="Beyond what the load needs.")] = 0
    strategy: Literal["cost", "spread", "availability"] = "cost"
    constraints: Constraints = Constraints()
    max_usd_per_hour: Annotated[Usd, Meta(description="`0`: no limit.")] = "0"
    slo_first_token_ms: Annotated[int, Meta(ge=1, le=600_000, description="95th percentile.")] = 2_000
    target_utilisation: Annotated[float, Meta(ge=0.05, le=1)] = 0.85
    scale_up_cooldown_s: Annotated[float, Meta(ge=0, le=3_600)] = 10.0
    scale_down_cooldown_s: Annotated[float, Meta(ge=5, le=86_400)] = 300.0
    cold_start_wait_s: Annotated[float, Meta(ge=0, le=600, description="0: requests do not wait.")] = 60.0
    cold_start_queue: Annotated[int, Meta(ge=1, le=10_000, description="At one gateway worker.")] = 100
    mode: Mode = "active"


class NewDeployment(Wishes, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A model at a place."""

    model: ModelName
    region: Annotated[str, Meta(max_length=63, description="Empty: wherever it is cheapest.")] = ""


class ChangedDeployment(Wishes, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What a deployment asks for now; what is left out is as for a new one."""

    revision: Annotated[int, Meta(ge=0, le=2**53, description="That is to be replaced. 0: whichever it is.")] = 0


class Need(Struct, kw_only=True, frozen=True):
    """What one signal asks for."""

    signal: str
    nodes: int
    why: str


class PlannedLaunch(Struct, kw_only=True, frozen=True):
    """A machine that is asked for, or that can be had."""

    provider: str
    region: str
    instance_type: str
    use_spot: bool
    hourly_price_usd: str
    expected_hourly_price_usd: Annotated[str, Meta(description="With what interruptions cost.")]
    why: str
    placement_why: str
    replaces_instance_id: str | None
    instance_id: str | None


class PlannedEnd(Struct, kw_only=True, frozen=True):
    """A machine that is drained and ended."""

    instance_id: str
    why: str


class Decision(Struct, kw_only=True, frozen=True):
    """What was decided, and why."""

    sequence: Annotated[int, Meta(description="0: it was only a plan.")]
    time: Time
    desired: int
    kept: int
    needs: list[Need]
    launches: list[PlannedLaunch]
    ends: list[PlannedEnd]
    held: Annotated[list[str], Meta(description="What was not done, and what stood against it.")]
    dry_run: bool


class ScaledDeployment(Struct, kw_only=True, frozen=True):
    """A deployment."""

    id: str
    model: str
    region: str
    wishes: Wishes
    revision: int
    create_time: Time
    update_time: Time
    decision: Annotated[Decision | None, Meta(description="The newest.")]


class ScaledDeploymentList(Struct, kw_only=True, frozen=True):
    """All deployments, oldest first."""

    data: list[ScaledDeployment]
    next_page_token: NextPageToken = None


class DeploymentPlan(Struct, kw_only=True, frozen=True):
    """What would be done now."""

    decision: Decision
    offers: Annotated[list[PlannedLaunch], Meta(description="Where machines can be had, best first, at most 50.")]


class DecisionsQuery(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Which page."""

    page_size: Annotated[int, Meta(ge=0, le=1000)] = 0
    page_token: Annotated[str, Meta(max_length=512)] = ""


class DecisionList(Struct, kw_only=True, frozen=True):
    """A page of decisions, newest first."""

    data: list[Decision]
    next_page_token: NextPageToken


class EndedDeployment(Struct, kw_only=True, frozen=True):
    """A deployment that is ended."""

    id: str

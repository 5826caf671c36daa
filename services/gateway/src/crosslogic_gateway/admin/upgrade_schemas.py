"""Bodies and answers of the admin API about model upgrades."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from crosslogic_gateway.admin.schemas import Asked, Count, NextPageToken, Time

PhaseName = Literal["waiting", "shifting", "finishing", "draining", "done", "rolled_back"]
Version = Annotated[str, Meta(min_length=1, max_length=100)]
Percent = Annotated[int, Meta(ge=1, le=100)]
Steps = Annotated[
    list[Percent],
    Meta(min_length=1, max_length=20, description="Shares of traffic of the new version: rising, the last 100."),
]


class NewUpgradeRules(Asked):
    """How an upgrade proceeds."""

    steps_percent: Steps = field(default_factory=lambda: [5, 25, 50, 100])
    step_s: Annotated[int, Meta(ge=1, le=604_800, description="Least time at each step, seconds.")] = 300
    step_requests: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Least number of requests of the new version at each step.")
    ] = 100
    max_error_percent: Annotated[
        float, Meta(ge=0, le=100, description="Failed requests, over the old version's share of them.")
    ] = 2.0
    max_first_token_ratio: Annotated[
        float, Meta(ge=1, le=100, description="Mean time to the first token, over the old version's.")
    ] = 1.5
    first_token_slack_ms: Annotated[
        int, Meta(ge=1, le=600_000, description="What first tokens may come later whatever the ratio.")
    ] = 50
    min_nodes: Annotated[
        int, Meta(ge=1, le=10_000, description="Nodes of the new version before traffic goes there.")
    ] = 1
    wait_s: Annotated[int, Meta(ge=1, le=604_800, description="How long they are waited for, seconds.")] = 3_600
    lost_s: Annotated[
        int, Meta(ge=1, le=3_600, description="How long no node of the new version may serve, seconds.")
    ] = 30
    finish_s: Annotated[
        int, Meta(ge=1, le=86_400, description="How long what runs on the old version may take to end, seconds.")
    ] = 600


class NewUpgrade(Asked):
    """A model that is to go from one version to another."""

    to_version: Version
    from_version: (
        Annotated[str, Meta(max_length=100, description="Left out: the model's, or the one that all its nodes name.")]
        | UnsetType
    ) = UNSET
    rules: NewUpgradeRules = field(default_factory=NewUpgradeRules)


class NewRollBack(Asked):
    """Why an upgrade is taken back."""

    reason: Annotated[str, Meta(max_length=200)] = ""


class UpgradeRules(Struct, kw_only=True):
    """How an upgrade proceeds."""

    steps_percent: list[int]
    step_s: int
    step_requests: int
    max_error_percent: float
    max_first_token_ratio: float
    first_token_slack_ms: int
    min_nodes: int
    wait_s: int
    lost_s: int
    finish_s: int


class VersionOutcomes(Struct, kw_only=True):
    """What gateways saw of one version since the last step."""

    succeeded: Count
    failed: Annotated[int, Meta(ge=0, description="Also those that another node made good.")]
    first_token_ms: Annotated[float, Meta(ge=0, description="The mean. 0: none was measured.")]


class Upgrade(Struct, kw_only=True):
    """A model on its way from one version to another."""

    id: str
    model: str
    from_version: Annotated[str, Meta(description="Empty: the nodes that name none.")]
    to_version: str
    phase: PhaseName
    percent: Annotated[int, Meta(ge=0, le=100, description="Share of traffic of the new version now.")]
    reason: str
    rules: UpgradeRules
    new_outcomes: VersionOutcomes
    old_outcomes: VersionOutcomes
    create_time: Time
    change_time: Time


class UpgradeList(Struct, kw_only=True):
    """A page of upgrades, newest first."""

    data: list[Upgrade]
    next_page_token: NextPageToken

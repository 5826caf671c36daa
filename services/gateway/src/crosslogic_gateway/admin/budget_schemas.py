"""What the admin API takes and gives about budgets and corrections."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from crosslogic_gateway.admin.schemas import (
    Asked,
    Cost,
    CostUsd,
    Count,
    NextPageToken,
    PageQuery,
    PageSize,
    Price,
    TimeText,
    UsageRecord,
)

_MAX_U63 = 2**63 - 1

ScopeName = Literal["org", "department", "environment", "key"]
PeriodName = Literal["day", "month"]
OutcomeName = Literal["succeeded", "client_disconnected", "failed", "timed_out"]
BudgetName = Annotated[str, Meta(min_length=1, max_length=200)]
Limit = Annotated[int, Meta(ge=1, le=_MAX_U63, description="Pico-dollars (10^-12 dollars) a period.")]
Thresholds = Annotated[
    list[Annotated[int, Meta(ge=1, le=1000)]],
    Meta(max_length=10, description="Shares of the limit, in percent, rising, at which owners are told."),
]
Owners = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=320)]],
    Meta(max_length=20, description="Who is told: addresses of mail or anything else that the notifier knows."),
]
Ids = Annotated[list[str], Meta(max_length=100)]


class NewBudget(Asked):
    """A new budget."""

    org_id: str
    name: BudgetName
    limit_picodollars: Limit
    scope: ScopeName = "org"
    scope_id: Annotated[str, Meta(description="The environment or the key, for those scopes.")] = ""
    environment_ids: Annotated[Ids, Meta(description="A department's environments.")] = field(default_factory=list)
    key_ids: Annotated[Ids, Meta(description="Keys that are a department's besides.")] = field(default_factory=list)
    period: PeriodName = "month"
    hard: Annotated[bool, Meta(description="Requests that would pass it are refused.")] = False
    thresholds_percent: Thresholds = field(default_factory=lambda: [50, 80, 100])
    owners: Owners = field(default_factory=list)


class BudgetPatch(Asked):
    """What is to be changed."""

    name: BudgetName | UnsetType = UNSET
    limit_picodollars: Limit | UnsetType = UNSET
    hard: bool | UnsetType = UNSET
    thresholds_percent: Thresholds | UnsetType = UNSET
    owners: Owners | UnsetType = UNSET


class Budget(Struct, kw_only=True):
    """A budget and where it stands. Days and months are those of UTC."""

    id: str
    org_id: str
    name: str
    scope: ScopeName
    scope_id: str | None
    environment_ids: list[str]
    key_ids: list[str]
    period: PeriodName
    limit_picodollars: Cost
    limit_usd: CostUsd
    hard: bool
    thresholds_percent: list[int]
    owners: list[str]
    created_at: datetime
    period_start: datetime
    spent_picodollars: Cost
    spent_usd: CostUsd
    held_picodollars: Annotated[int, Meta(description="Held for requests under way.")]


class BudgetList(Struct, kw_only=True):
    """Budgets, oldest first."""

    data: list[Budget]
    next_page_token: NextPageToken


class BudgetsQuery(PageQuery):
    """Which budgets."""

    org_id: str = ""


class BudgetEventsQuery(Asked):
    """Which events."""

    org_id: str = ""
    budget_id: str = ""
    after_sequence: Annotated[int, Meta(ge=0, le=_MAX_U63)] = 0
    page_size: PageSize = 100


class BudgetEvent(Struct, kw_only=True):
    """A threshold was reached. There is one a threshold, budget and period."""

    sequence: int
    budget_id: str
    org_id: str
    name: str
    owners: list[str]
    period_start: datetime
    threshold_percent: int
    spent_picodollars: Cost
    spent_usd: CostUsd
    limit_picodollars: Cost
    limit_usd: CostUsd
    stopped: Annotated[bool, Meta(description="From here on requests are refused.")]
    time: datetime


class BudgetEventList(Struct, kw_only=True):
    """Events in order."""

    data: list[BudgetEvent]


class NewCorrection(Asked):
    """What is to stand in the place of a record. What is not given stays as it is."""

    expected_revision: Annotated[int, Meta(ge=0, le=32_000, description="The revision that was looked at.")]
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]
    prompt_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | UnsetType = UNSET
    cached_prompt_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | UnsetType = UNSET
    completion_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | UnsetType = UNSET
    outcome: OutcomeName | UnsetType = UNSET
    prompt_price_picodollars: Price | UnsetType = UNSET
    cached_prompt_price_picodollars: Price | UnsetType = UNSET
    completion_price_picodollars: Price | UnsetType = UNSET


class Correction(Struct, kw_only=True):
    """The record that now stands."""

    record: UsageRecord
    revision: int
    duplicate: Annotated[bool, Meta(description="The correction had been made before.")]


class ComparisonQuery(Asked, rename={"from_": "from"}):
    """Which period: full hours, at most 35 days."""

    from_: TimeText
    to: TimeText
    org_id: str = ""


class Totals(Struct, kw_only=True):
    """Sums of one source."""

    requests: Count
    prompt_tokens: Count
    cached_prompt_tokens: Count
    completion_tokens: Count
    cost_picodollars: Cost
    cost_usd: CostUsd


class WitnessDifference(Struct, kw_only=True):
    """A node that counted otherwise than the gateway, whose word stands."""

    request_id: str
    node_id: str
    gateway_prompt_tokens: int
    gateway_completion_tokens: int
    witness_prompt_tokens: int
    witness_completion_tokens: int


class RollupDifference(Struct, kw_only=True):
    """A sum that is not what its records say."""

    time: datetime
    daily: bool
    org_id: str
    records: Totals
    rollup: Totals


class Comparison(Struct, kw_only=True):
    """Witnesses, records and rollups of a period, as of one moment."""

    records: Totals
    rollups: Totals
    settled_from_witnesses: Totals
    unpaid_witnesses: Totals
    witness_differences: list[WitnessDifference]
    witness_differences_total: int
    rollup_differences: list[RollupDifference]
    rollup_differences_total: int
    corrections: int
    open_witnesses: int
    last_sequence: int
    rolled_up_sequence: int
    billed_sequence: int

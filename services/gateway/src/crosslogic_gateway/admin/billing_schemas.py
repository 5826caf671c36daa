"""What the admin API takes and gives about money."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from crosslogic_gateway.admin.schemas import (
    Asked,
    Cost,
    CostUsd,
    Count,
    ModelName,
    NextPageToken,
    PageQuery,
    Price,
    Time,
    TimeText,
    UsdPerMillion,
)

Ratio = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,7}(\.[0-9]{1,6}|/[1-9][0-9]{0,6})?\Z",
        description="Exact: a decimal such as `0.9`, or a fraction such as `2/3`.",
    ),
]
Usd = Annotated[str, Meta(pattern=r"^[0-9]{1,12}(\.[0-9]{1,12})?\Z", description="Dollars, a decimal string, exact.")]
Month = Annotated[str, Meta(pattern=r"^([0-9]{4}-[0-9]{2})?\Z", description="`YYYY-MM`. Empty: this month.")]
Day = Annotated[str, Meta(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?\Z", description="`YYYY-MM-DD`, UTC.")]
Short = Annotated[str, Meta(max_length=200)]
MeterEventState = Literal["pending", "delivered", "dead"]


class NewPrices(Asked):
    """New price versions, one a market. Prices are before the market's multiplier and the discount."""

    model: ModelName
    prompt_usd_per_million: UsdPerMillion
    completion_usd_per_million: UsdPerMillion
    cached_prompt_usd_per_million: Annotated[UsdPerMillion | None, Meta(description="null: as the prompt's.")] = None
    embedding_usd_per_million: Annotated[UsdPerMillion | None, Meta(description="null: as the prompt's.")] = None
    plan: Annotated[str, Meta(max_length=100, description="Empty: plans without a price of their own.")] = ""
    category: Annotated[
        str, Meta(pattern=r"^[a-z0-9_]{0,40}\Z", description="What it is billed as. Empty: as before.")
    ] = ""
    discount: Ratio = "0"
    markets: Annotated[list[Short], Meta(max_length=100, description="Empty: all.")] = field(default_factory=list)
    effective_from: Annotated[TimeText | None, Meta(description="null: now.")] = None


class TokenPrices(Struct, kw_only=True):
    """Pico-dollars of one token of each kind."""

    prompt: Price
    cached_prompt: Price
    completion: Price
    embedding: Price


class PriceVersion(Struct, kw_only=True):
    """What a model's tokens cost in one market, under one plan, for a time."""

    id: str
    model: str
    market: str
    plan: Annotated[str | None, Meta(description="null: every plan that has no version of its own.")]
    category: str
    base: TokenPrices
    multiplier: Ratio
    discount: Ratio
    prices: Annotated[TokenPrices, Meta(description="base x multiplier x (1 - discount), rounded once.")]
    effective_from: Time
    effective_to: Annotated[Time | None, Meta(description="null: for ever.")]
    create_time: Time


class PriceVersionList(Struct, kw_only=True):
    """A page of price versions, oldest first."""

    data: list[PriceVersion]
    next_page_token: NextPageToken


class PricesQuery(PageQuery):
    """Which price versions."""

    model: Annotated[str, Meta(max_length=200, description="Empty: all.")] = ""


class Tier(Asked):
    """From so many tokens of a category in a month on, a token costs this share of its price."""

    from_tokens: Annotated[int, Meta(ge=1, le=10**15)]
    share: Ratio


class AgreedTerms(Asked):
    """What billing holds itself of terms, for a month and those after it."""

    collection: Annotated[
        Literal["invoice", "prepaid"], Meta(description="Prepaid credit is spent in the money ledger.")
    ] = "invoice"
    free_tokens: Annotated[int, Meta(ge=0, le=10**15, description="A month; serverless only.")] = 25_000
    discount: Ratio = "0"
    tiers: Annotated[list[Tier], Meta(max_length=20)] = field(default_factory=list)
    monthly_cap_usd: Usd | None = None
    unit_fee_usd: Annotated[Usd, Meta(description="Of a capacity unit, a month.")] = "0"


class Terms(AgreedTerms):
    """What an organisation is charged by: agreed terms, with its plan and reserved capacity."""

    mode: Annotated[Literal["serverless", "reserved"], Meta(description="By its plan.")] = "serverless"
    reserved_units: Annotated[
        dict[str, Annotated[int, Meta(ge=0)]],
        Meta(description="Capacity units (guaranteed tokens a second) by model, as the organisation has reserved."),
    ] = field(default_factory=dict)
    overage: Annotated[Literal["bill", "shed"], Meta(description="By its plan.")] = "bill"
    time_zone: Annotated[str, Meta(max_length=64, description="Where its months begin.")] = "UTC"


class NewTerms(AgreedTerms):
    """Terms agreed with one organisation alone, and the first month they are for."""

    time_zone: Annotated[str, Meta(max_length=64, description="Where its months begin.")] = "UTC"
    from_month: Month = ""


class NewPlanTerms(AgreedTerms):
    """A plan's next version of terms, and the first month it is for."""

    from_month: Month = ""


class PlanTerms(Struct, kw_only=True):
    """A version of a plan's terms."""

    plan: str
    version: Annotated[int, Meta(ge=0, description="0: none was set, these are the usual terms.")]
    from_month: Annotated[str | None, Meta(description="null: none was set.")]
    terms: Terms


class BillingAccount(Struct, kw_only=True):
    """An organisation as billing knows it, and its terms of a month."""

    org_id: str
    customer_id: str | None
    subscription_id: str | None
    subscription_status: str | None
    failing_since: Annotated[Time | None, Meta(description="Since when an invoice is unpaid.")]
    suspend_time: Annotated[Time | None, Meta(description="When it was suspended for that.")]
    plan: Annotated[str | None, Meta(description="null: identity has not told of it yet.")]
    agreed_alone: Annotated[bool, Meta(description="The terms are its own, not its plan's.")]
    terms: Terms


class MonthQuery(Asked):
    """Which month."""

    month: Month = ""


class NewCustomer(Asked):
    """Who an organisation is to the payment provider, with what taxes need."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    email: Short = ""
    country: Annotated[str, Meta(pattern=r"^([A-Z]{2})?\Z")] = ""
    state: Short = ""
    city: Short = ""
    line1: Short = ""
    postal_code: Short = ""
    tax_id_type: Annotated[str, Meta(max_length=40, description="In Stripe's words, for example `in_gst`.")] = ""
    tax_id: Short = ""


class StatementLine(Struct, kw_only=True):
    """What one category comes to."""

    category: str
    tokens: Count
    uncharged_tokens: Annotated[int, Meta(ge=0, description="Free, or within reserved capacity.")]
    list_usd: CostUsd
    charge_picodollars: Cost
    charge_usd: CostUsd
    exported_picodollars: Cost


class ReservedUse(Struct, kw_only=True):
    """Use of reserved capacity of one model."""

    model: str
    units: Count
    tokens: Count
    capacity_tokens: Count


class Statement(Struct, kw_only=True):
    """A month of an organisation so far."""

    org_id: str
    month: str
    from_time: Time
    to_time: Time
    lines: list[StatementLine]
    capped_usd: CostUsd
    fee_usd: CostUsd
    total_picodollars: Cost
    total_usd: CostUsd
    forecast_usd: Annotated[CostUsd, Meta(description="What the month will come to if it goes on as lately.")]
    free_tokens_left: Count
    reserved: list[ReservedUse]
    settled_until: Time


class Invoice(Struct, kw_only=True):
    """An invoice as the payment provider has it."""

    id: str
    number: str | None
    status: str
    currency: str
    total_cents: int
    paid_cents: int
    create_time: Time
    period_start: Time
    period_end: Time
    url: str | None


class InvoiceList(Struct, kw_only=True):
    """Invoices, newest first."""

    data: list[Invoice]


class InvoicesQuery(Asked):
    """How many invoices."""

    page_size: Annotated[int, Meta(ge=1, le=100)] = 20


class MeterEvent(Struct, kw_only=True):
    """What one window of an organisation adds to one meter."""

    id: int
    identifier: str
    org_id: str
    customer_id: str
    event_name: str
    value: Count
    window_start: Time
    revision: Count
    state: MeterEventState
    delivered_how: str | None
    attempts: Count
    last_error: str | None
    create_time: Time
    deliver_time: Time | None


class MeterEventList(Struct, kw_only=True):
    """A page of meter events, oldest first."""

    data: list[MeterEvent]
    next_page_token: NextPageToken


class MeterEventsQuery(PageQuery):
    """Which meter events."""

    state: MeterEventState | Literal["any"] = "any"
    org_id: Annotated[str, Meta(max_length=36)] = ""


class NewReconciliation(Asked):
    """Which days."""

    from_day: Annotated[Day, Meta(description="Empty: yesterday.")] = ""
    to_day: Annotated[Day, Meta(description="The day after the last one. Empty: the day after `from_day`.")] = ""


class ReconciliationLine(Struct, kw_only=True):
    """Two numbers that should be one."""

    what: str
    org_id: str | None
    category: str | None
    unit: str
    left: int
    right: int
    explanation: str | None
    unexplained: bool


class Reconciliation(Struct, kw_only=True):
    """A report."""

    id: str
    from_day: str
    to_day: str
    create_time: Time
    unexplained: Count
    missing: list[str]
    lines: list[ReconciliationLine]
    signed_by: str | None
    signed_note: str | None
    sign_time: Time | None


class ReconciliationList(Struct, kw_only=True):
    """Reports, newest first."""

    data: list[Reconciliation]
    next_page_token: NextPageToken


class ReconciliationsQuery(Asked):
    """Which reports."""

    page_size: Annotated[int, Meta(ge=1, le=100)] = 10
    page_token: str = ""


class SignOff(Asked):
    """Who has read a report, and what they say."""

    signed_by: Annotated[str, Meta(min_length=1, max_length=200)]
    note: Annotated[str, Meta(max_length=2_000)] = ""


class ChargeExplanation(Struct, kw_only=True):
    """Why one request cost what it cost."""

    request_id: str
    org_id: str
    model: str
    region: str
    start_time: Time
    outcome: str
    prompt_tokens: Count
    cached_prompt_tokens: Count
    completion_tokens: Count
    cost_picodollars: Cost
    cost_usd: CostUsd
    price_version: Annotated[PriceVersion | None, Meta(description="null: the catalogue's price.")]
    from_witness: bool
    corrections: Count
    month: str
    window_start: Time
    events: list[MeterEvent]
    sentences: list[str]


class Machine(Asked):
    """What a machine costs, for a time."""

    node_id: Annotated[str, Meta(min_length=1, max_length=200)]
    region: Short
    hourly_usd: Annotated[Usd, Meta(description="Of the whole machine.")]
    from_time: TimeText
    to_time: Annotated[TimeText | None, Meta(description="null: it runs.")] = None
    gpu_type: Short = ""
    gpu_count: Annotated[int, Meta(ge=0, le=1_000)] = 0
    spot: bool = False
    models: Annotated[list[ModelName], Meta(max_length=64)] = field(default_factory=list)


class MachineKept(Struct, kw_only=True):
    """A machine's cost as it is kept."""

    node_id: str
    from_time: Time
    hourly_usd: CostUsd


class FinopsQuery(Asked):
    """Which period; full hours, at most 35 days."""

    from_time: TimeText
    to_time: TimeText


class FinopsRow(Struct, kw_only=True):
    """Cost, revenue and margin of something."""

    name: str
    cost_usd: CostUsd
    revenue_usd: CostUsd
    margin_usd: CostUsd
    tokens: Count
    cost_usd_per_million_tokens: CostUsd | None
    gpu_hours: float
    cost_usd_per_gpu_hour: CostUsd | None


class Finops(Struct, kw_only=True):
    """Cost, revenue and margin of a period."""

    models: list[FinopsRow]
    regions: list[FinopsRow]
    markets: Annotated[list[FinopsRow], Meta(description="Spot and on-demand machines.")]
    idle_cost_usd: CostUsd
    total: FinopsRow

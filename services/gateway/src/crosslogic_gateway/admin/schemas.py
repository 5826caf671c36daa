"""What the admin API takes and gives. The OpenAPI document is made from these."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from crosslogic_gateway.admin.money import MAX_PRICE_PICODOLLARS

_MAX_U63 = 2**63 - 1
_USD_PATTERN = r"^[0-9]{1,10}(\.[0-9]{1,30})?\Z"

ModelName = Annotated[str, Meta(min_length=1, max_length=200)]
Region = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z", description="For example `us-east`.")]
Time = Annotated[datetime, Meta(tz=True)]
TimeText = Annotated[
    str, Meta(description="RFC 3339, for example `2026-01-31T00:00:00Z`.", extra_json_schema={"format": "date-time"})
]
Count = Annotated[int, Meta(ge=0)]
Price = Annotated[int, Meta(ge=0, le=MAX_PRICE_PICODOLLARS, description="Pico-dollars (10^-12 dollars) a token.")]
UsdPerMillion = Annotated[
    str,
    Meta(
        pattern=_USD_PATTERN, description="Dollars for a million tokens, a decimal string, exact; 6 decimals at most."
    ),
]
CostUsd = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?\Z", description="Dollars, exact, a decimal string.")]
Cost = Annotated[int, Meta(description="Pico-dollars (10^-12 dollars). May exceed 2^53.")]
NextPageToken = Annotated[
    str | None, Meta(description="Give it as `page_token` for the next page. null: the last page.")
]
PageSize = Annotated[int, Meta(ge=1, le=1000)]
RowsPageSize = Annotated[int, Meta(ge=1, le=10_000)]


class Asked(Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of what clients send: an unknown field is an error."""


class PageQuery(Asked):
    """Which page of a list."""

    page_size: PageSize = 100
    page_token: str = ""


# Models


StrategyName = Literal["least_load", "round_robin", "least_connections", "least_latency", "prefix_affinity"]


class Deployment(Asked):
    """How a model is served in a region."""

    region: Annotated[
        str, Meta(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?\Z", description="Empty: all that have no own.")
    ] = ""
    strategy: Annotated[StrategyName, Meta(description="How the node for a request is chosen.")] = "least_load"


Deployments = Annotated[list[Deployment], Meta(max_length=200, description="At most one for each region.")]


class NewModel(Asked):
    """A new model of the catalogue. Each price is given in one of its two units."""

    name: ModelName
    context_length: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Tokens that prompt and answer may have together.")
    ]
    family: Annotated[str, Meta(max_length=200)] = ""
    vram_required_bytes: Annotated[int, Meta(ge=0, le=_MAX_U63)] = 0
    prompt_price_picodollars: Price | UnsetType = UNSET
    completion_price_picodollars: Price | UnsetType = UNSET
    input_usd_per_million: UsdPerMillion | UnsetType = UNSET
    output_usd_per_million: UsdPerMillion | UnsetType = UNSET
    regions: Annotated[list[Region], Meta(max_length=64, description="Empty: all.")] = []
    deployments: Deployments = []


class Model(Struct, kw_only=True):
    """A model of the catalogue."""

    name: str
    family: str
    context_length: Count
    vram_required_bytes: Count
    prompt_price_picodollars: Price
    completion_price_picodollars: Price
    input_usd_per_million: UsdPerMillion
    output_usd_per_million: UsdPerMillion
    regions: Annotated[list[str], Meta(description="Empty: all.")]
    deployments: list[Deployment]
    create_time: Time


class ModelList(Struct, kw_only=True):
    """A page of the catalogue, by name."""

    data: list[Model]
    next_page_token: NextPageToken


# Nodes


class NewJoinToken(Asked):
    """A new join token."""

    org_id: Annotated[str, Meta(max_length=36, description="The only organisation the node may serve. Empty: any.")] = (
        ""
    )
    ttl_s: Annotated[int, Meta(ge=1, le=86_400, description="How long it can be used, seconds.")] = 600


class JoinToken(Struct, kw_only=True):
    """A single-use join token."""

    join_token: Annotated[str, Meta(description="Shown this once.")]
    expire_time: Time


class Node(Struct, kw_only=True):
    """A node as the registry knows it."""

    id: str
    org_id: Annotated[str | None, Meta(description="The only organisation that it may serve. null: any.")]
    status: Literal["registering", "warming", "active", "draining", "dead"]
    status_reason: str
    address: str
    region: str
    models: list[str]
    context_length: Count
    engine: str
    engine_version: str
    agent_version: str
    gpu_type: str
    gpu_count: Count
    vram_total_bytes: Count
    max_tokens_per_sec: float
    prefill_tokens_per_sec: float
    decode_tokens_per_sec: float
    current_tokens_per_sec: float
    running: Count
    waiting: Count
    kv_cache_usage: Annotated[float, Meta(description="Share of the KV cache in use, 0 to 1.")]
    prompt_tokens_total: Count
    generation_tokens_total: Count
    engine_restarts: Count
    last_heartbeat_time: Time | None
    create_time: Time


class NodeList(Struct, kw_only=True):
    """A page of nodes, oldest first."""

    data: list[Node]
    next_page_token: NextPageToken


# Usage


class UsageQuery(Asked):
    """Which records are summed, and how."""

    org_id: str = ""
    environment_id: str = ""
    key_id: str = ""
    model: str = ""
    region: str = ""
    from_: TimeText | UnsetType = field(name="from", default=UNSET)
    to: TimeText | UnsetType = UNSET
    group_by: Annotated[
        str,
        Meta(description="At most 4 of org, environment, key, model, region, hour, day, with commas between."),
    ] = ""
    page_size: RowsPageSize = 1000
    page_token: str = ""


class UsageRow(Struct, kw_only=True, omit_defaults=True):
    """Sums. Of the grouping columns only those asked for are there."""

    org_id: str | UnsetType = UNSET
    environment_id: str | UnsetType = UNSET
    key_id: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    region: str | UnsetType = UNSET
    time: Annotated[Time, Meta(description="Start of the hour or the day, UTC.")] | UnsetType = UNSET
    requests: Count
    prompt_tokens: Count
    cached_prompt_tokens: Annotated[int, Meta(ge=0, description="Of the prompt tokens, those found in a prefix cache.")]
    completion_tokens: Count
    total_tokens: Count
    cost_picodollars: Cost
    cost_usd: CostUsd


class UsageList(Struct, kw_only=True):
    """A page of sums, by the grouping columns."""

    data: list[UsageRow]
    next_page_token: NextPageToken


class RecordsQuery(Asked):
    """Which records are listed."""

    request_id: str = ""
    org_id: str = ""
    environment_id: str = ""
    key_id: str = ""
    model: str = ""
    region: str = ""
    from_: TimeText | UnsetType = field(name="from", default=UNSET)
    to: TimeText | UnsetType = UNSET
    page_size: PageSize = 100
    page_token: str = ""


class UsageRecord(Struct, kw_only=True):
    """What one request used."""

    request_id: str
    org_id: str
    environment_id: str
    key_id: str
    model: str
    region: str
    node_id: str
    api: Annotated[str, Meta(description="The path that was asked.")]
    stream: bool
    start_time: Time
    outcome: Literal["succeeded", "client_disconnected", "failed", "timed_out", "unspecified"]
    http_status: Annotated[int, Meta(ge=0, description="What the client was sent. 0: nothing.")]
    prompt_tokens: Count
    cached_prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    count_source: Annotated[
        Literal["engine_final", "engine_running", "none", "unspecified"],
        Meta(description="How the tokens were counted."),
    ]
    prompt_price_picodollars: Count
    completion_price_picodollars: Count
    cost_picodollars: Cost
    cost_usd: CostUsd
    latency_us: Count
    time_to_first_token_us: Annotated[int, Meta(ge=0, description="0: nothing was sent.")]
    record_time: Time
    from_witness: Annotated[bool, Meta(description="Settled from the node's witness: no gateway reported it.")]
    cached_prompt_price_picodollars: Annotated[
        int | None, Meta(description="Of a prompt token that a prefix cache held. null: as any prompt token.")
    ]
    price_version: Annotated[str | None, Meta(description="null: the catalogue's price.")]
    plan: str | None
    attempts: Annotated[int, Meta(ge=1, description="Nodes that worked on it.")]
    failed_over: bool
    region_failover: bool
    resumed: bool
    revision: Annotated[int, Meta(ge=0, description="0: as first reported. Each correction adds 2.")]
    billed: bool


class UsageRecordList(Struct, kw_only=True):
    """A page of records, newest first."""

    data: list[UsageRecord]
    next_page_token: NextPageToken

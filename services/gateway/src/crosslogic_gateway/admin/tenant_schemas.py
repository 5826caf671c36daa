"""What the admin API takes and gives about organisations, environments and keys."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from crosslogic_gateway.admin.schemas import Asked, ModelName, NextPageToken, Region, Time

MAX_LIMIT = 2**53 - 1
MAX_PICODOLLARS = 2**63 - 1

OrgName = Annotated[str, Meta(min_length=1, max_length=200)]
EnvironmentName = Annotated[str, Meta(min_length=1, max_length=100)]
KeyName = Annotated[str, Meta(max_length=200)]
PlanName = Annotated[
    str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z", description="Name of a plan, for example `default`.")
]
AnyRegion = Annotated[str, Meta(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?\Z", description="Empty: anywhere.")]
Models = Annotated[
    list[ModelName], Meta(max_length=1000, description="Catalogue names. Empty: all that are allowed above it.")
]
Settable = Literal["active", "suspended"]
Regions = Annotated[list[Region], Meta(max_length=64, description="The preferred one first.")]
Cidr = Annotated[str, Meta(min_length=1, max_length=60)]
Cidrs = Annotated[
    list[Cidr],
    Meta(max_length=100, description="Networks such as `192.0.2.0/24` that the key may be used from. Empty: any."),
]
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)] | None
Tokens = (
    Annotated[int, Meta(ge=1, le=2**31 - 1, description="Tokens. null: the plan's, and never more than that.")] | None
)
Cap = (
    Annotated[
        int,
        Meta(
            ge=1, le=MAX_PICODOLLARS, description="Pico-dollars (10^-12 dollars) in a calendar month, UTC. null: none."
        ),
    ]
    | None
)
Reserved = Annotated[
    dict[ModelName, Annotated[int, Meta(ge=1, le=10**9)]],
    Meta(max_length=100, description="Capacity units (tokens per second, guaranteed) by model."),
]
StatusReason = Annotated[str, Meta(max_length=1000, description="Why it is suspended; read with `status` only.")]
CutStreams = Annotated[bool, Meta(description="With `status` suspended: streams under way end too.")]


class Limits(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How much may be asked for. null: inherited, from the plan, then from the defaults, and then there is no limit."""

    requests_per_second: Limit = None
    requests_per_minute: Limit = None
    tokens_per_second: Limit = None
    tokens_per_minute: Limit = None
    tokens_per_hour: Limit = None
    tokens_per_day: Limit = None
    concurrency: Limit = None


# Organisations


class NewOrg(Asked):
    """A new organisation."""

    name: OrgName
    plan: PlanName = "default"
    limits: Limits = Limits()
    reserved_capacity: Reserved = field(default_factory=dict)
    allowed_regions: Regions = field(default_factory=list)
    monthly_cap_picodollars: Cap = None


class OrgPatch(Asked):
    """Changes to an organisation. Fields that are left out stay as they are."""

    name: OrgName | UnsetType = UNSET
    status: Settable | UnsetType = UNSET
    status_reason: StatusReason = ""
    cut_streams: CutStreams = False
    plan: PlanName | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    reserved_capacity: Reserved | UnsetType = UNSET
    allowed_regions: Regions | UnsetType = UNSET
    monthly_cap_picodollars: Cap | UnsetType = UNSET


class Org(Struct, kw_only=True):
    """An organisation."""

    id: str
    name: str
    status: Settable
    status_reason: str
    plan: str
    limits: Limits
    reserved_capacity: dict[str, int]
    allowed_regions: Annotated[list[str], Meta(description="The preferred one first. Empty: any.")]
    monthly_cap_picodollars: Annotated[int | None, Meta(description="null: the plan's.")]
    create_time: Time
    update_time: Time


class OrgList(Struct, kw_only=True):
    """A page of organisations, oldest first."""

    data: list[Org]
    next_page_token: NextPageToken


# Environments


class NewEnvironment(Asked):
    """A new environment."""

    name: EnvironmentName
    region: AnyRegion = ""
    country: Annotated[
        str,
        Meta(
            pattern=r"^([A-Z]{2})?\Z", description="ISO 3166-1 code. Where no `region` is named, its region is taken."
        ),
    ] = ""
    allowed_models: Models = field(default_factory=list)
    limits: Limits = Limits()
    max_prompt_tokens: Tokens = None
    max_output_tokens: Tokens = None
    fallback_regions: Regions = field(default_factory=list)
    residency_pinned: bool = False
    monthly_cap_picodollars: Cap = None


class EnvironmentPatch(Asked):
    """Changes to an environment. Fields that are left out stay as they are."""

    name: EnvironmentName | UnsetType = UNSET
    status: Settable | UnsetType = UNSET
    status_reason: StatusReason = ""
    cut_streams: CutStreams = False
    region: AnyRegion | UnsetType = UNSET
    allowed_models: Models | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    max_prompt_tokens: Tokens | UnsetType = UNSET
    max_output_tokens: Tokens | UnsetType = UNSET
    fallback_regions: Regions | UnsetType = UNSET
    residency_pinned: bool | UnsetType = UNSET
    monthly_cap_picodollars: Cap | UnsetType = UNSET


class Environment(Struct, kw_only=True):
    """An environment of an organisation."""

    id: str
    org_id: str
    name: str
    status: Settable
    region: Annotated[str, Meta(description="Where its requests run. Empty: anywhere.")]
    status_reason: str
    allowed_models: Annotated[list[str], Meta(description="Empty: all.")]
    limits: Limits
    max_prompt_tokens: Annotated[int | None, Meta(description="null: the plan's.")]
    max_output_tokens: Annotated[int | None, Meta(description="null: the plan's.")]
    fallback_regions: Annotated[
        list[str], Meta(description="Where its requests run when `region` cannot take them. Empty: the fleet's table.")
    ]
    residency_pinned: Annotated[bool, Meta(description="Its requests run in `region` or not at all.")]
    monthly_cap_picodollars: Annotated[int | None, Meta(description="null: none of its own.")]
    create_time: Time
    update_time: Time


class EnvironmentList(Struct, kw_only=True):
    """A page of environments, oldest first."""

    data: list[Environment]
    next_page_token: NextPageToken


# API keys


class NewKey(Asked):
    """A new API key."""

    name: KeyName = ""
    kind: Literal["live", "test"] = "live"
    allowed_models: Models = field(default_factory=list)
    limits: Limits = Limits()
    allowed_regions: Regions = field(default_factory=list)
    allowed_cidrs: Cidrs = field(default_factory=list)
    monthly_cap_picodollars: Cap = None
    expire_time: Annotated[Time | None, Meta(description="In the future. null: never.")] = None


class KeyPatch(Asked):
    """Changes to a key. Fields that are left out stay as they are."""

    name: KeyName | UnsetType = UNSET
    status: Settable | UnsetType = UNSET
    status_reason: StatusReason = ""
    cut_streams: CutStreams = False
    allowed_models: Models | UnsetType = UNSET
    limits: Limits | UnsetType = UNSET
    allowed_regions: Regions | UnsetType = UNSET
    allowed_cidrs: Cidrs | UnsetType = UNSET
    monthly_cap_picodollars: Cap | UnsetType = UNSET


class KeyRotation(Asked):
    """How a key is replaced."""

    overlap_s: Annotated[
        int, Meta(ge=0, le=2_592_000, description="How long the old key goes on working, seconds. 0: it ends at once.")
    ] = 0
    cut_streams: Annotated[bool, Meta(description="Without overlap: streams under way of the old key end too.")] = False


class KeyRevocation(Asked):
    """How a key is revoked."""

    cut_streams: Annotated[bool, Meta(description="Streams under way end too.")] = False


class Key(Struct, kw_only=True):
    """An API key, without its secret."""

    id: str
    org_id: str
    environment_id: str
    name: str
    kind: Literal["live", "test"]
    status: Literal["active", "suspended", "revoked"]
    hint: Annotated[str, Meta(description="The secret's prefix and its last four digits.")]
    status_reason: str
    allowed_models: Annotated[list[str], Meta(description="Empty: those of the environment.")]
    limits: Limits
    allowed_regions: Annotated[list[str], Meta(description="Empty: those of organisation and environment.")]
    allowed_cidrs: Annotated[list[str], Meta(description="Empty: any.")]
    monthly_cap_picodollars: Annotated[int | None, Meta(description="null: none of its own.")]
    create_time: Time
    expire_time: Annotated[Time | None, Meta(description="When it stops working by itself. null: never.")]
    revoke_time: Annotated[Time | None, Meta(description="null: it was not revoked.")]


class CreatedKey(Key, kw_only=True):
    """A new key with its secret, which is shown this once."""

    key: Annotated[str, Meta(pattern=r"^clsk_(live|test)_[0-9a-f]{32}\Z", description="The secret, shown this once.")]


class RotatedKey(CreatedKey, kw_only=True):
    """A key's successor."""

    old_key: Key


class KeyList(Struct, kw_only=True):
    """A page of keys, oldest first."""

    data: list[Key]
    next_page_token: NextPageToken

"""The words of identity."""

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Literal

Status = Literal["active", "suspended", "revoked"]
Kind = Literal["live", "test"]
Scope = Literal["org", "environment", "api_key", "plan"]
Priority = Literal["high", "normal", "low"]
BillingMode = Literal["serverless", "reserved"]
OveragePolicy = Literal["shed", "bill"]
Role = Literal["admin", "developer", "read_only"]
ActorKind = Literal["token", "user", "system", "service"]

DEFAULT_PLAN = "default"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be asked for. None: inherited, and where nothing is left to inherit from, no limit."""

    requests_per_second: int | None = None
    requests_per_minute: int | None = None
    tokens_per_second: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_hour: int | None = None
    tokens_per_day: int | None = None
    concurrency: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and from where. For the audit log only: it decides nothing but who may undo a suspension."""

    kind: ActorKind
    id: str = ""
    name: str = ""
    org_id: str = ""
    """The organisation that a user acts for. Empty: the platform."""
    address: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A named set of limits and rules that organisations are on."""

    name: str
    description: str = ""
    key_limits: Limits = NO_LIMITS
    environment_limits: Limits = NO_LIMITS
    org_limits: Limits = NO_LIMITS
    priority: Priority = "normal"
    billing_mode: BillingMode = "serverless"
    overage_policy: OveragePolicy = "shed"
    monthly_cap_picodollars: int = 0
    max_prompt_tokens: int = 0
    max_output_tokens: int = 0
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Org:
    """An organisation: a tenant."""

    id: str
    name: str
    status: Status
    cache_salt: str = field(repr=False)
    created_at: datetime
    updated_at: datetime
    plan: str = DEFAULT_PLAN
    limits: Limits = NO_LIMITS
    reserved_capacity: tuple[tuple[str, int], ...] = ()
    """Model and capacity units, by model."""
    allowed_regions: tuple[str, ...] = ()
    monthly_cap_picodollars: int = 0
    status_reason: str = ""
    suspended_by: str = ""
    """`platform` or `org`: a suspension by the platform is not for the organisation to end."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A tenant's environment."""

    id: str
    org_id: str
    name: str
    status: Status
    region: str
    allowed_models: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    limits: Limits = NO_LIMITS
    max_prompt_tokens: int = 0
    max_output_tokens: int = 0
    fallback_regions: tuple[str, ...] = ()
    residency_pinned: bool = False
    monthly_cap_picodollars: int = 0
    status_reason: str = ""
    suspended_by: str = ""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its secret."""

    id: str
    org_id: str
    environment_id: str
    name: str
    kind: Kind
    status: Status
    hint: str
    allowed_models: tuple[str, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
    limits: Limits = NO_LIMITS
    allowed_regions: tuple[str, ...] = ()
    allowed_cidrs: tuple[str, ...] = ()
    monthly_cap_picodollars: int = 0
    status_reason: str = ""
    suspended_by: str = ""


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Everything that decides whether and for whom a key works, and how much it may do."""

    key: ApiKey
    environment: Environment
    org: Org
    plan: Plan


@dataclass(frozen=True, slots=True)
class HardBudget:
    """A sum that must not be passed in a calendar month."""

    scope: Literal["org", "environment", "api_key"]
    owner_id: str
    limit_picodollars: int

    @property
    def id(self) -> str:
        """What it is called for ever."""
        return f"{self.scope}:{self.owner_id}:month"


@dataclass(frozen=True, slots=True)
class User:
    """A person's place in an organisation, or (no organisation) on the platform."""

    id: str
    org_id: str
    email: str
    name: str
    role: Role
    status: Status
    issuer: str
    """Empty, with the subject: the person never signed in."""
    subject: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an update sets; None leaves a field as it is. Each subclass's fields are those of what it changes."""

    name: str | None = None
    status: Status | None = None
    status_reason: str | None = None

    def values(self) -> dict[str, Any]:
        """The fields that are set."""
        found = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in found if value is not None}

    @property
    def touch_requests(self) -> bool:
        """Whether they could change what a request may do: a name is for people only."""
        return bool(self.values().keys() - {"name", "description"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgChanges(Changes):
    """Of an organisation."""

    plan: str | None = None
    limits: Limits | None = None
    reserved_capacity: tuple[tuple[str, int], ...] | None = None
    allowed_regions: tuple[str, ...] | None = None
    monthly_cap_picodollars: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentChanges(Changes):
    """Of an environment."""

    region: str | None = None
    allowed_models: tuple[str, ...] | None = None
    limits: Limits | None = None
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    fallback_regions: tuple[str, ...] | None = None
    residency_pinned: bool | None = None
    monthly_cap_picodollars: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChanges(Changes):
    """Of a key."""

    allowed_models: tuple[str, ...] | None = None
    limits: Limits | None = None
    allowed_regions: tuple[str, ...] | None = None
    allowed_cidrs: tuple[str, ...] | None = None
    monthly_cap_picodollars: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChanges:
    """Of a plan."""

    description: str | None = None
    key_limits: Limits | None = None
    environment_limits: Limits | None = None
    org_limits: Limits | None = None
    priority: Priority | None = None
    billing_mode: BillingMode | None = None
    overage_policy: OveragePolicy | None = None
    monthly_cap_picodollars: int | None = None
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None

    def values(self) -> dict[str, Any]:
        """The fields that are set."""
        found = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in found if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChanges:
    """Of a user."""

    name: str | None = None
    role: Role | None = None
    status: Status | None = None

    def values(self) -> dict[str, Any]:
        """The fields that are set."""
        found = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in found if value is not None}


@dataclass(frozen=True, slots=True)
class Revocation:
    """What every gateway must forget."""

    scope: Scope
    id: str
    cut_streams: bool = False

"""The words of the gateway."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be asked for by one key, one environment or one organisation. None: no limit."""

    requests_per_second: int | None = None
    requests_per_minute: int | None = None
    tokens_per_second: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_hour: int | None = None
    tokens_per_day: int | None = None
    concurrency: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class HardBudget:
    """A sum that must not be passed."""

    id: str
    """`<scope>:<id of the owner>:<period>`."""
    scope: Literal["org", "environment", "api_key"]
    period: Literal["day", "month"]
    """Of UTC's calendar."""
    limit_picodollars: int


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is served for."""

    org_id: str
    environment_id: str
    api_key_id: str
    region: str
    """Where its requests run. Empty: anywhere."""
    allowed_models: frozenset[str] | None
    """Catalogue names. None: every model."""
    cache_salt: str
    expires_at: datetime | None
    """When the key stops working by itself."""
    key_limits: Limits = NO_LIMITS
    """Effective: the plan's and the defaults are in it already; so with the next two."""
    environment_limits: Limits = NO_LIMITS
    org_limits: Limits = NO_LIMITS
    priority: Priority = "normal"
    """How its requests stand under overload."""
    plan: str = ""
    reserved: bool = False
    """The organisation buys capacity units, not tokens."""
    reserved_units: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Capacity units (tokens per second) that the organisation has reserved, by model."""
    overage_billed: bool = False
    """What goes beyond reserved capacity is served and billed; else it is refused."""
    allowed_regions: tuple[str, ...] = ()
    """Every region that its requests may run in, the preferred one first. Empty: any."""
    residency_pinned: bool = False
    """Its requests run in `region` or not at all."""
    allowed_networks: tuple[Network, ...] = ()
    """Where the key may be used from. Empty: anywhere."""
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    monthly_cap_picodollars: int | None = None
    """The organisation's; also one of `hard_budgets`."""
    hard_budgets: tuple[HardBudget, ...] = ()

    def may_use(self, model: str) -> bool:
        """Whether requests for the model are allowed at all."""
        return self.allowed_models is None or model in self.allowed_models


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the catalogue, as far as a request needs it."""

    name: str
    family: str
    context_length: int
    """Tokens that prompt and answer may have together."""
    prompt_price_picodollars: int
    completion_price_picodollars: int
    regions: frozenset[str]
    """Regions in which it is offered. Empty: all."""
    created_unix_s: int
    prefix_affinity: bool = False
    """Somewhere its nodes are chosen by the prompt's beginning: the scheduler wants to know it."""


@dataclass(frozen=True, slots=True)
class Route:
    """A node that takes a request."""

    node_id: str
    address: str
    region: str
    region_failover: bool = False
    """The region that was asked for is down: this one serves in its place."""
    org_id: str = ""
    """The only organisation that the node serves. Empty: any."""
    version: str = ""
    """Of the model there, as the node names it."""

"""Identity's word for a key's owner, as the gateway's."""

import ipaddress
from datetime import UTC
from typing import Literal

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_gateway.domain import HardBudget, Limits, Principal, Priority

_PRIORITY: dict[int, Priority] = {pb.PRIORITY_HIGH: "high", pb.PRIORITY_LOW: "low"}
_SCOPE: dict[int, Literal["org", "environment", "api_key"]] = {
    pb.BUDGET_SCOPE_ORG: "org",
    pb.BUDGET_SCOPE_ENVIRONMENT: "environment",
    pb.BUDGET_SCOPE_API_KEY: "api_key",
}
_PERIOD: dict[int, Literal["day", "month"]] = {pb.BUDGET_PERIOD_DAY: "day", pb.BUDGET_PERIOD_MONTH: "month"}


def principal_of(message: pb.Principal) -> Principal:
    """The owner of a key. Raises KeyError for a hard budget of a kind that is not known here: it must not be passed."""
    return Principal(
        org_id=message.org_id,
        environment_id=message.environment_id,
        api_key_id=message.api_key_id,
        region=message.region,
        allowed_models=None if message.all_models else frozenset(message.allowed_models),
        cache_salt=message.cache_salt,
        expires_at=message.expire_time.ToDatetime(tzinfo=UTC) if message.HasField("expire_time") else None,
        key_limits=limits_of(message.key_limits),
        environment_limits=limits_of(message.environment_limits),
        org_limits=limits_of(message.org_limits),
        priority=_PRIORITY.get(message.priority, "normal"),
        plan=message.plan,
        reserved=message.billing_mode == pb.BILLING_MODE_RESERVED,
        reserved_units={one.model: one.capacity_units for one in message.reserved_capacity},
        overage_billed=message.overage_policy == pb.OVERAGE_POLICY_BILL,
        allowed_regions=tuple(message.allowed_regions),
        residency_pinned=message.residency_pinned,
        allowed_networks=tuple(ipaddress.ip_network(cidr) for cidr in message.allowed_cidrs),
        max_prompt_tokens=message.max_prompt_tokens or None,
        max_output_tokens=message.max_output_tokens or None,
        monthly_cap_picodollars=message.monthly_cap_picodollars or None,
        hard_budgets=tuple(
            HardBudget(one.id, _SCOPE[one.scope], _PERIOD[one.period], one.limit_picodollars)
            for one in message.hard_budgets
        ),
    )


def limits_of(message: pb.Limits) -> Limits:
    """Limits; what is not set is no limit."""
    return Limits(**{field.name: value for field, value in message.ListFields()})

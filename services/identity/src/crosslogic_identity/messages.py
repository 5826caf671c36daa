"""Protobuf to domain and back, message by message."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_identity import audit, domain, policy
from crosslogic_identity.term_changes import TermChange

Word = TypeVar("Word", bound=str)

STATUS: dict[domain.Status, pb.Status.ValueType] = {
    "active": pb.STATUS_ACTIVE,
    "suspended": pb.STATUS_SUSPENDED,
    "revoked": pb.STATUS_REVOKED,
}
KIND: dict[domain.Kind, pb.ApiKeyKind.ValueType] = {"live": pb.API_KEY_KIND_LIVE, "test": pb.API_KEY_KIND_TEST}
PRIORITY: dict[domain.Priority, pb.Priority.ValueType] = {
    "high": pb.PRIORITY_HIGH,
    "normal": pb.PRIORITY_NORMAL,
    "low": pb.PRIORITY_LOW,
}
BILLING: dict[domain.BillingMode, pb.BillingMode.ValueType] = {
    "serverless": pb.BILLING_MODE_SERVERLESS,
    "reserved": pb.BILLING_MODE_RESERVED,
}
OVERAGE: dict[domain.OveragePolicy, pb.OveragePolicy.ValueType] = {
    "shed": pb.OVERAGE_POLICY_SHED,
    "bill": pb.OVERAGE_POLICY_BILL,
}
ROLE: dict[domain.Role, pb.Role.ValueType] = {
    "admin": pb.ROLE_ADMIN,
    "developer": pb.ROLE_DEVELOPER,
    "read_only": pb.ROLE_READ_ONLY,
}
ACTOR: dict[domain.ActorKind, pb.ActorKind.ValueType] = {
    "token": pb.ACTOR_KIND_TOKEN,
    "user": pb.ACTOR_KIND_USER,
    "system": pb.ACTOR_KIND_SYSTEM,
    "service": pb.ACTOR_KIND_SERVICE,
}
BUDGET_SCOPE = {
    "org": pb.BUDGET_SCOPE_ORG,
    "environment": pb.BUDGET_SCOPE_ENVIRONMENT,
    "api_key": pb.BUDGET_SCOPE_API_KEY,
}
_LAST_SECOND = 253_402_300_799
"""Of the year 9999."""


def word(words: Mapping[Word, int], number: int, field: str) -> Word:
    """The word of an enum's number. Raises INVALID_ARGUMENT that names the field and the words."""
    for candidate, value in words.items():
        if value == number:
            return candidate
    raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` must be one of {', '.join(words)}.", param=field)


def object_id(text: str) -> str:
    """An id as stored. A text that is no UUID names nothing."""
    try:
        return str(UUID(text))
    except ValueError:
        raise CodedError(ErrorCode.NOT_FOUND) from None


def filter_id(text: str, field: str) -> str:
    """An id to filter by, empty for none. Raises INVALID_ARGUMENT."""
    if not text:
        return ""
    try:
        return str(UUID(text))
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` must be a UUID.", param=field) from None


def new_status(status: int) -> domain.Status:
    """A status that may be asked for."""
    if status not in (pb.STATUS_ACTIVE, pb.STATUS_SUSPENDED):
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            "`status` must be active or suspended; revoking is a call of its own.",
            param="status",
        )
    return "active" if status == pb.STATUS_ACTIVE else "suspended"


def asked_kind(kind: int) -> domain.Kind:
    """A kind of key; live when not stated."""
    return "live" if kind == pb.API_KEY_KIND_UNSPECIFIED else word(KIND, kind, "kind")


def asked_time(stamp: Timestamp, field: str = "expire_time") -> datetime:
    """A time that Python can hold."""
    if not 0 <= stamp.seconds <= _LAST_SECOND or not 0 <= stamp.nanos < 10**9:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` must be between 1970 and 9999.", param=field)
    return stamp.ToDatetime(tzinfo=UTC)


def limits_of(message: pb.Limits) -> domain.Limits:
    """Limits; what is not set is inherited."""
    return domain.Limits(**{field.name: value for field, value in message.ListFields()})


def reserved_of(message: Iterable[pb.ReservedCapacity]) -> tuple[tuple[str, int], ...]:
    """Reservations."""
    return tuple((one.model, one.capacity_units) for one in message)


def time(moment: datetime | None) -> Timestamp | None:
    """A time, exact to the microsecond."""
    return None if moment is None else timestamp(moment)


def limits(of: domain.Limits) -> pb.Limits:
    """Limits."""
    return pb.Limits(**{name: value for name, value in asdict(of).items() if value is not None})


def reserved(capacity: tuple[tuple[str, int], ...]) -> list[pb.ReservedCapacity]:
    """Reservations."""
    return [pb.ReservedCapacity(model=model, capacity_units=units) for model, units in capacity]


def org(of: domain.Org) -> pb.Org:
    """An organisation."""
    return pb.Org(
        id=of.id,
        name=of.name,
        status=STATUS[of.status],
        create_time=time(of.created_at),
        update_time=time(of.updated_at),
        limits=limits(of.limits),
        plan=of.plan,
        reserved_capacity=reserved(of.reserved_capacity),
        allowed_regions=of.allowed_regions,
        monthly_cap_picodollars=of.monthly_cap_picodollars,
        status_reason=of.status_reason,
    )


def environment(of: domain.Environment) -> pb.Environment:
    """An environment."""
    return pb.Environment(
        id=of.id,
        org_id=of.org_id,
        name=of.name,
        status=STATUS[of.status],
        region=of.region,
        allowed_models=of.allowed_models,
        create_time=time(of.created_at),
        update_time=time(of.updated_at),
        limits=limits(of.limits),
        max_prompt_tokens=of.max_prompt_tokens,
        max_output_tokens=of.max_output_tokens,
        fallback_regions=of.fallback_regions,
        residency_pinned=of.residency_pinned,
        monthly_cap_picodollars=of.monthly_cap_picodollars,
        status_reason=of.status_reason,
    )


def api_key(key: domain.ApiKey) -> pb.ApiKey:
    """A key, without its secret."""
    return pb.ApiKey(
        id=key.id,
        org_id=key.org_id,
        environment_id=key.environment_id,
        name=key.name,
        kind=KIND[key.kind],
        status=STATUS[key.status],
        hint=key.hint,
        allowed_models=key.allowed_models,
        create_time=time(key.created_at),
        expire_time=time(key.expires_at),
        revoke_time=time(key.revoked_at),
        limits=limits(key.limits),
        allowed_regions=key.allowed_regions,
        allowed_cidrs=key.allowed_cidrs,
        monthly_cap_picodollars=key.monthly_cap_picodollars,
        status_reason=key.status_reason,
    )


def plan(of: domain.Plan) -> pb.Plan:
    """A plan."""
    return pb.Plan(
        name=of.name,
        description=of.description,
        key_limits=limits(of.key_limits),
        environment_limits=limits(of.environment_limits),
        org_limits=limits(of.org_limits),
        priority=PRIORITY[of.priority],
        billing_mode=BILLING[of.billing_mode],
        overage_policy=OVERAGE[of.overage_policy],
        monthly_cap_picodollars=of.monthly_cap_picodollars,
        max_prompt_tokens=of.max_prompt_tokens,
        max_output_tokens=of.max_output_tokens,
        create_time=time(of.created_at),
        update_time=time(of.updated_at),
    )


def term_change(of: TermChange) -> pb.TermChange:
    """A change of a plan's or an organisation's terms."""
    return pb.TermChange(
        from_time=time(of.from_time),
        org_id=of.org_id,
        plan=of.plan,
        reserved_capacity=reserved(of.reserved_capacity),
        billing_mode=BILLING[of.billing_mode] if of.billing_mode else pb.BILLING_MODE_UNSPECIFIED,
        overage_policy=OVERAGE[of.overage_policy] if of.overage_policy else pb.OVERAGE_POLICY_UNSPECIFIED,
    )


def user(of: domain.User) -> pb.User:
    """A user."""
    return pb.User(
        id=of.id,
        org_id=of.org_id,
        email=of.email,
        name=of.name,
        role=ROLE[of.role],
        status=STATUS[of.status],
        issuer=of.issuer,
        create_time=time(of.created_at),
        update_time=time(of.updated_at),
    )


def audit_record(record: audit.AuditRecord) -> pb.AuditRecord:
    """An audit record."""
    entry, actor = record.entry, record.entry.actor
    return pb.AuditRecord(
        seq=record.seq,
        time=time(record.at),
        actor=pb.Actor(
            kind=ACTOR.get(actor.kind, pb.ACTOR_KIND_UNSPECIFIED),
            user_id=actor.id,
            name=actor.name,
            org_id=actor.org_id,
            address=actor.address,
            request_id=actor.request_id,
        ),
        action=entry.action,
        outcome=entry.outcome,
        org_id=entry.org_id,
        object_kind=entry.object_kind,
        object_id=entry.object_id,
        before_json=entry.before,
        after_json=entry.after,
        reason=entry.reason,
        previous_hash=record.previous_hash,
        hash=record.hash,
    )


def principal(owner: domain.KeyOwner) -> pb.Principal:
    """What a gateway must know of a key's owner."""
    models = policy.models_of(owner)
    region, allowed_regions, pinned = policy.regions_of(owner)
    own, plan_ = owner.environment, owner.plan
    return pb.Principal(
        org_id=owner.org.id,
        environment_id=own.id,
        api_key_id=owner.key.id,
        kind=KIND[owner.key.kind],
        region=region,
        allowed_models=sorted(models or ()),
        all_models=models is None,
        cache_salt=owner.org.cache_salt,
        expire_time=time(owner.key.expires_at),
        key_limits=limits(policy.limits_of(owner.key.limits, plan_.key_limits, policy.KEY_DEFAULTS)),
        environment_limits=limits(policy.limits_of(own.limits, plan_.environment_limits, policy.ENVIRONMENT_DEFAULTS)),
        org_limits=limits(policy.limits_of(owner.org.limits, plan_.org_limits, policy.ORG_DEFAULTS)),
        priority=PRIORITY[plan_.priority],
        plan=plan_.name,
        billing_mode=BILLING[plan_.billing_mode],
        reserved_capacity=reserved(owner.org.reserved_capacity),
        overage_policy=OVERAGE[plan_.overage_policy],
        allowed_regions=allowed_regions,
        allowed_cidrs=owner.key.allowed_cidrs,
        max_prompt_tokens=policy.length_of(own.max_prompt_tokens, plan_.max_prompt_tokens),
        max_output_tokens=policy.length_of(own.max_output_tokens, plan_.max_output_tokens),
        monthly_cap_picodollars=policy.org_cap_of(owner),
        hard_budgets=[
            pb.HardBudget(
                id=budget.id,
                scope=BUDGET_SCOPE[budget.scope],
                period=pb.BUDGET_PERIOD_MONTH,
                limit_picodollars=budget.limit_picodollars,
            )
            for budget in policy.budgets_of(owner)
        ],
        residency_pinned=pinned,
    )


def revocation(of: domain.Revocation | None) -> pb.WatchRevocationsResponse:
    """What gateways must forget. None: everything."""
    if of is None:
        return pb.WatchRevocationsResponse(resync=True)
    told = pb.WatchRevocationsResponse(cut_streams=of.cut_streams)
    if of.scope == "org":
        told.org_id = of.id
    elif of.scope == "environment":
        told.environment_id = of.id
    elif of.scope == "plan":
        told.plan = of.id
    else:
        told.api_key_id = of.id
    return told

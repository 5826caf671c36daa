"""What requests ask for, as the domain's changes and actors."""

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.tls import Context, peer_identity
from crosslogic_identity import checks, domain
from crosslogic_identity.audit import AuditEntry
from crosslogic_identity.messages import (
    ACTOR,
    BILLING,
    OVERAGE,
    PRIORITY,
    ROLE,
    filter_id,
    limits_of,
    new_status,
    reserved_of,
    word,
)

_OUTCOMES = frozenset({"started", "succeeded", "failed"})


def actor_of(said: pb.Actor, context: Context) -> domain.Actor:
    """Who asks: what the caller says, and where it says nothing, the caller's certificate. Raises INVALID_ARGUMENT."""
    caller = peer_identity(context)
    if said.kind not in (pb.ACTOR_KIND_TOKEN, pb.ACTOR_KIND_USER, pb.ACTOR_KIND_SYSTEM):
        return domain.Actor("service", name=caller.name if caller is not None else "", request_id=said.request_id[:100])
    return domain.Actor(
        word(ACTOR, said.kind, "actor.kind"),
        filter_id(said.user_id, "actor.user_id"),
        checks.short("actor.name", said.name, 0, 320),
        filter_id(said.org_id, "actor.org_id"),
        checks.short("actor.address", said.address, 0, 64),
        checks.short("actor.request_id", said.request_id, 0, 200),
    )


def org_of(request: pb.CreateOrgRequest) -> domain.OrgChanges:
    """A new organisation."""
    return domain.OrgChanges(
        name=request.name,
        plan=request.plan or None,
        limits=limits_of(request.limits),
        reserved_capacity=reserved_of(request.reserved_capacity),
        allowed_regions=tuple(request.allowed_regions),
        monthly_cap_picodollars=request.monthly_cap_picodollars,
    )


def org_changes(request: pb.UpdateOrgRequest) -> domain.OrgChanges:
    """Changes to an organisation."""
    has = request.HasField
    return domain.OrgChanges(
        name=request.name if has("name") else None,
        status=new_status(request.status) if has("status") else None,
        status_reason=request.status_reason if has("status") else None,
        plan=request.plan if has("plan") else None,
        limits=limits_of(request.limits) if has("limits") else None,
        reserved_capacity=reserved_of(request.reserved_capacity.reserved) if has("reserved_capacity") else None,
        allowed_regions=tuple(request.allowed_regions.regions) if has("allowed_regions") else None,
        monthly_cap_picodollars=request.monthly_cap_picodollars if has("monthly_cap_picodollars") else None,
    )


def environment_of(request: pb.CreateEnvironmentRequest) -> domain.EnvironmentChanges:
    """A new environment."""
    return domain.EnvironmentChanges(
        name=request.name,
        region=request.region,
        allowed_models=tuple(request.allowed_models),
        limits=limits_of(request.limits),
        max_prompt_tokens=request.max_prompt_tokens,
        max_output_tokens=request.max_output_tokens,
        fallback_regions=tuple(request.fallback_regions),
        residency_pinned=request.residency_pinned,
        monthly_cap_picodollars=request.monthly_cap_picodollars,
    )


def environment_changes(request: pb.UpdateEnvironmentRequest) -> domain.EnvironmentChanges:
    """Changes to an environment."""
    has = request.HasField
    return domain.EnvironmentChanges(
        name=request.name if has("name") else None,
        status=new_status(request.status) if has("status") else None,
        status_reason=request.status_reason if has("status") else None,
        region=request.region if has("region") else None,
        allowed_models=tuple(request.allowed_models.models) if has("allowed_models") else None,
        limits=limits_of(request.limits) if has("limits") else None,
        max_prompt_tokens=request.max_prompt_tokens if has("max_prompt_tokens") else None,
        max_output_tokens=request.max_output_tokens if has("max_output_tokens") else None,
        fallback_regions=tuple(request.fallback_regions.regions) if has("fallback_regions") else None,
        residency_pinned=request.residency_pinned if has("residency_pinned") else None,
        monthly_cap_picodollars=request.monthly_cap_picodollars if has("monthly_cap_picodollars") else None,
    )


def key_of(request: pb.CreateApiKeyRequest) -> domain.KeyChanges:
    """A new key."""
    return domain.KeyChanges(
        name=request.name,
        allowed_models=tuple(request.allowed_models),
        limits=limits_of(request.limits),
        allowed_regions=tuple(request.allowed_regions),
        allowed_cidrs=tuple(request.allowed_cidrs),
        monthly_cap_picodollars=request.monthly_cap_picodollars,
    )


def key_changes(request: pb.UpdateApiKeyRequest) -> domain.KeyChanges:
    """Changes to a key."""
    has = request.HasField
    return domain.KeyChanges(
        name=request.name if has("name") else None,
        status=new_status(request.status) if has("status") else None,
        status_reason=request.status_reason if has("status") else None,
        allowed_models=tuple(request.allowed_models.models) if has("allowed_models") else None,
        limits=limits_of(request.limits) if has("limits") else None,
        allowed_regions=tuple(request.allowed_regions.regions) if has("allowed_regions") else None,
        allowed_cidrs=tuple(request.allowed_cidrs.cidrs) if has("allowed_cidrs") else None,
        monthly_cap_picodollars=request.monthly_cap_picodollars if has("monthly_cap_picodollars") else None,
    )


def plan_of(plan: pb.Plan) -> domain.PlanChanges:
    """A new plan; words that are not stated are the usual ones."""
    return domain.PlanChanges(
        description=plan.description,
        key_limits=limits_of(plan.key_limits),
        environment_limits=limits_of(plan.environment_limits),
        org_limits=limits_of(plan.org_limits),
        priority=word(PRIORITY, plan.priority, "priority") if plan.priority else None,
        billing_mode=word(BILLING, plan.billing_mode, "billing_mode") if plan.billing_mode else None,
        overage_policy=word(OVERAGE, plan.overage_policy, "overage_policy") if plan.overage_policy else None,
        monthly_cap_picodollars=plan.monthly_cap_picodollars,
        max_prompt_tokens=plan.max_prompt_tokens,
        max_output_tokens=plan.max_output_tokens,
    )


def plan_changes(request: pb.UpdatePlanRequest) -> domain.PlanChanges:
    """Changes to a plan."""
    has = request.HasField
    return domain.PlanChanges(
        description=request.description if has("description") else None,
        key_limits=limits_of(request.key_limits) if has("key_limits") else None,
        environment_limits=limits_of(request.environment_limits) if has("environment_limits") else None,
        org_limits=limits_of(request.org_limits) if has("org_limits") else None,
        priority=word(PRIORITY, request.priority, "priority") if has("priority") else None,
        billing_mode=word(BILLING, request.billing_mode, "billing_mode") if has("billing_mode") else None,
        overage_policy=word(OVERAGE, request.overage_policy, "overage_policy") if has("overage_policy") else None,
        monthly_cap_picodollars=request.monthly_cap_picodollars if has("monthly_cap_picodollars") else None,
        max_prompt_tokens=request.max_prompt_tokens if has("max_prompt_tokens") else None,
        max_output_tokens=request.max_output_tokens if has("max_output_tokens") else None,
    )


def user_changes(request: pb.UpdateUserRequest) -> domain.UserChanges:
    """Changes to a user."""
    has = request.HasField
    return domain.UserChanges(
        name=request.name if has("name") else None,
        role=word(ROLE, request.role, "role") if has("role") else None,
        status=new_status(request.status) if has("status") else None,
    )


def audit_entry(request: pb.RecordAuditRequest, context: Context) -> AuditEntry:
    """What is to be written down. Raises INVALID_ARGUMENT."""
    if request.outcome not in _OUTCOMES:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`outcome` must be started, succeeded or failed.", param="outcome")
    return AuditEntry(
        actor=actor_of(request.actor, context),
        action=request.action,
        outcome=request.outcome,
        org_id=filter_id(request.org_id, "org_id"),
        object_kind=request.object_kind,
        object_id=request.object_id,
        before=request.before_json,
        after=request.after_json,
        reason=request.reason,
    )

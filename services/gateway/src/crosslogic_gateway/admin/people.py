"""Plans, users and the audit log."""

from typing import Literal, cast

from msgspec import UNSET, Raw, UnsetType

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_gateway.admin import people_schemas as people
from crosslogic_gateway.admin.conversion import text_or_none, time
from crosslogic_gateway.admin.decoding import field_error
from crosslogic_gateway.admin.operation import Call
from crosslogic_gateway.admin.schemas import PageQuery
from crosslogic_gateway.admin.sold_capacity import refuse_plan_without_terms
from crosslogic_gateway.admin.tenant_schemas import Limits
from crosslogic_gateway.admin.tenants import limits, shown_limits

_PRIORITY = {"high": pb.PRIORITY_HIGH, "normal": pb.PRIORITY_NORMAL, "low": pb.PRIORITY_LOW}
_BILLING = {"serverless": pb.BILLING_MODE_SERVERLESS, "reserved": pb.BILLING_MODE_RESERVED}
_OVERAGE = {"shed": pb.OVERAGE_POLICY_SHED, "bill": pb.OVERAGE_POLICY_BILL}
_ROLE = {"admin": pb.ROLE_ADMIN, "developer": pb.ROLE_DEVELOPER, "read_only": pb.ROLE_READ_ONLY}
_SHOWN_PRIORITY: dict[int, people.Priority] = {pb.PRIORITY_HIGH: "high", pb.PRIORITY_LOW: "low"}
ROLES: dict[int, people.Role] = {
    pb.ROLE_ADMIN: "admin",
    pb.ROLE_DEVELOPER: "developer",
    pb.ROLE_READ_ONLY: "read_only",
}
_ActorKind = Literal["token", "user", "system", "service", "unspecified"]
_ACTORS: dict[int, _ActorKind] = {
    pb.ACTOR_KIND_TOKEN: "token",
    pb.ACTOR_KIND_USER: "user",
    pb.ACTOR_KIND_SYSTEM: "system",
    pb.ACTOR_KIND_SERVICE: "service",
}


async def create_plan(call: Call[people.NewPlan, None]) -> people.Plan:
    """POST /admin/plans."""
    asked = call.body
    plan = pb.Plan(
        name=asked.name,
        description=asked.description,
        key_limits=limits(asked.key_limits),
        environment_limits=limits(asked.environment_limits),
        org_limits=limits(asked.org_limits),
        priority=_PRIORITY[asked.priority],
        billing_mode=_BILLING[asked.billing_mode],
        overage_policy=_OVERAGE[asked.overage_policy],
        monthly_cap_picodollars=asked.monthly_cap_picodollars or 0,
        max_prompt_tokens=asked.max_prompt_tokens or 0,
        max_output_tokens=asked.max_output_tokens or 0,
    )
    request = pb.CreatePlanRequest(plan=plan, actor=call.actor)
    return _plan((await call.rpc(call.deps.identity().CreatePlan, request)).plan)


async def list_plans(call: Call[None, PageQuery]) -> people.PlanList:
    """GET /admin/plans."""
    request = pb.ListPlansRequest(page_size=call.query.page_size, page_token=call.query.page_token)
    page = await call.rpc(call.deps.identity().ListPlans, request)
    return people.PlanList(
        data=[_plan(plan) for plan in page.plans], next_page_token=text_or_none(page.next_page_token)
    )


async def get_plan(call: Call[None, None]) -> people.Plan:
    """GET /admin/plans/{name}."""
    return _plan((await call.rpc(call.deps.identity().GetPlan, pb.GetPlanRequest(name=call.path["name"]))).plan)


async def update_plan(call: Call[people.PlanPatch, None]) -> people.Plan:
    """PATCH /admin/plans/{name}."""
    patch = call.body
    if patch.billing_mode == "reserved":
        await refuse_plan_without_terms(call, call.path["name"], field="billing_mode", becomes_reserved=True)
    request = pb.UpdatePlanRequest(
        name=call.path["name"],
        description=None if patch.description is UNSET else patch.description,
        key_limits=_limits(patch.key_limits),
        environment_limits=_limits(patch.environment_limits),
        org_limits=_limits(patch.org_limits),
        priority=None if patch.priority is UNSET else _PRIORITY[patch.priority],
        billing_mode=None if patch.billing_mode is UNSET else _BILLING[patch.billing_mode],
        overage_policy=None if patch.overage_policy is UNSET else _OVERAGE[patch.overage_policy],
        monthly_cap_picodollars=_number(patch.monthly_cap_picodollars),
        max_prompt_tokens=_number(patch.max_prompt_tokens),
        max_output_tokens=_number(patch.max_output_tokens),
        actor=call.actor,
    )
    return _plan((await call.rpc(call.deps.identity().UpdatePlan, request)).plan)


async def create_org_user(call: Call[people.NewUser, None]) -> people.User:
    """POST /admin/orgs/{id}/users."""
    return await _create_user(call, call.path["id"])


async def create_platform_user(call: Call[people.NewUser, None]) -> people.User:
    """POST /admin/users."""
    return await _create_user(call, "")


async def list_org_users(call: Call[None, PageQuery]) -> people.UserList:
    """GET /admin/orgs/{id}/users."""
    return await _list_users(call, call.path["id"])


async def list_platform_users(call: Call[None, PageQuery]) -> people.UserList:
    """GET /admin/users."""
    return await _list_users(call, "")


async def get_user(call: Call[None, None]) -> people.User:
    """GET /admin/users/{id}."""
    return _user((await call.rpc(call.deps.identity().GetUser, pb.GetUserRequest(id=call.path["id"]))).user)


async def update_user(call: Call[people.UserPatch, None]) -> people.User:
    """PATCH /admin/users/{id}."""
    patch = call.body
    status = {"active": pb.STATUS_ACTIVE, "suspended": pb.STATUS_SUSPENDED}
    request = pb.UpdateUserRequest(
        id=call.path["id"],
        name=None if patch.name is UNSET else patch.name,
        role=None if patch.role is UNSET else _ROLE[patch.role],
        status=None if patch.status is UNSET else status[patch.status],
        actor=call.actor,
    )
    return _user((await call.rpc(call.deps.identity().UpdateUser, request)).user)


async def delete_user(call: Call[None, None]) -> people.User:
    """DELETE /admin/users/{id}."""
    request = pb.DeleteUserRequest(id=call.path["id"], actor=call.actor)
    return _user((await call.rpc(call.deps.identity().DeleteUser, request)).user)


async def me(call: Call[None, None]) -> people.Me:
    """GET /admin/me."""
    return people.Me(
        kind=call.who.kind,
        name=call.who.name,
        places=[people.OwnPlace(org_id=place.org_id or None, role=place.role) for place in call.who.places],
    )


async def list_audit(call: Call[None, people.AuditQuery]) -> people.AuditList:
    """GET /admin/audit."""
    query = call.query
    request = pb.ListAuditRecordsRequest(
        page_size=query.page_size,
        page_token=query.page_token,
        org_id=query.org_id,
        object_id=query.object_id,
        action=query.action,
    )
    page = await call.rpc(call.deps.identity().ListAuditRecords, request)
    hidden = not call.who.on_platform
    return people.AuditList(
        data=[_record(record, platform_hidden=hidden) for record in page.records],
        next_page_token=text_or_none(page.next_page_token),
    )


async def verify_audit(call: Call[None, people.VerifyQuery]) -> people.AuditVerdict:
    """GET /admin/audit/verify."""
    query = call.query
    if bool(query.known_seq) != (query.known_hash is not UNSET):
        raise field_error("known_hash", "give it together with `known_seq`")
    request = pb.VerifyAuditLogRequest(
        from_seq=query.from_seq,
        known_seq=query.known_seq,
        known_hash=b"" if query.known_hash is UNSET else bytes.fromhex(query.known_hash),
    )
    verdict = await call.rpc(call.deps.identity().VerifyAuditLog, request)
    return people.AuditVerdict(
        intact=verdict.intact,
        broken_seq=verdict.broken_seq or None,
        problem=verdict.problem,
        records=verdict.records,
        next_seq=verdict.next_seq or None,
        head_seq=verdict.head_seq,
        head_hash=verdict.head_hash.hex(),
    )


async def _create_user(call: Call[people.NewUser, None], org_id: str) -> people.User:
    asked = call.body
    request = pb.CreateUserRequest(
        org_id=org_id, email=asked.email, name=asked.name, role=_ROLE[asked.role], actor=call.actor
    )
    return _user((await call.rpc(call.deps.identity().CreateUser, request)).user)


async def _list_users(call: Call[None, PageQuery], org_id: str) -> people.UserList:
    request = pb.ListUsersRequest(org_id=org_id, page_size=call.query.page_size, page_token=call.query.page_token)
    page = await call.rpc(call.deps.identity().ListUsers, request)
    return people.UserList(
        data=[_user(user) for user in page.users], next_page_token=text_or_none(page.next_page_token)
    )


def _limits(asked: Limits | UnsetType) -> pb.Limits | None:
    return None if asked is UNSET else limits(asked)


def _number(asked: int | UnsetType | None) -> int | None:
    return None if asked is UNSET else asked or 0


def _plan(plan: pb.Plan) -> people.Plan:
    return people.Plan(
        name=plan.name,
        description=plan.description,
        key_limits=shown_limits(plan.key_limits),
        environment_limits=shown_limits(plan.environment_limits),
        org_limits=shown_limits(plan.org_limits),
        priority=_SHOWN_PRIORITY.get(plan.priority, "normal"),
        billing_mode="reserved" if plan.billing_mode == pb.BILLING_MODE_RESERVED else "serverless",
        overage_policy="bill" if plan.overage_policy == pb.OVERAGE_POLICY_BILL else "shed",
        monthly_cap_picodollars=plan.monthly_cap_picodollars or None,
        max_prompt_tokens=plan.max_prompt_tokens or None,
        max_output_tokens=plan.max_output_tokens or None,
        create_time=time(plan.create_time),
        update_time=time(plan.update_time),
    )


def _user(user: pb.User) -> people.User:
    return people.User(
        id=user.id,
        org_id=text_or_none(user.org_id),
        email=user.email,
        name=user.name,
        role=ROLES.get(user.role, "read_only"),
        status="suspended" if user.status == pb.STATUS_SUSPENDED else "active",
        issuer=text_or_none(user.issuer),
        create_time=time(user.create_time),
        update_time=time(user.update_time),
    )


def _record(record: pb.AuditRecord, *, platform_hidden: bool) -> people.AuditRecord:
    actor = record.actor
    if platform_hidden and not actor.org_id:
        # A tenant learns what was done to it, and not which operator did it from where.
        actor = pb.Actor(kind=actor.kind, name="operators", request_id=actor.request_id)
    return people.AuditRecord(
        seq=record.seq,
        time=time(record.time),
        actor=people.AuditActor(
            kind=_ACTORS.get(actor.kind, "unspecified"),
            user_id=text_or_none(actor.user_id),
            name=actor.name,
            org_id=text_or_none(actor.org_id),
            address=actor.address,
            request_id=actor.request_id,
        ),
        action=record.action,
        outcome=cast("Literal['done', 'started', 'succeeded', 'failed']", record.outcome),
        org_id=text_or_none(record.org_id),
        object_kind=record.object_kind,
        object_id=record.object_id,
        before=Raw(record.before_json.encode()) if record.before_json else None,
        after=Raw(record.after_json.encode()) if record.after_json else None,
        reason=record.reason,
        previous_hash=record.previous_hash.hex(),
        hash=record.hash.hex(),
    )

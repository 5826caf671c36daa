"""Organisations, environments and keys."""

from typing import Any

from msgspec import UNSET, UnsetType, structs

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.regions import RegionTable
from crosslogic_gateway.admin import tenant_schemas as tenant
from crosslogic_gateway.admin.conversion import optional_time, text_or_none, time, timestamp
from crosslogic_gateway.admin.operation import Call
from crosslogic_gateway.admin.placement import region_code, region_codes
from crosslogic_gateway.admin.schemas import PageQuery
from crosslogic_gateway.admin.sold_capacity import refuse_plan_without_terms

_STATUS = {"active": pb.STATUS_ACTIVE, "suspended": pb.STATUS_SUSPENDED}
_KEY_STATUS = {pb.STATUS_SUSPENDED: "suspended", pb.STATUS_REVOKED: "revoked"}
_KIND = {"live": pb.API_KEY_KIND_LIVE, "test": pb.API_KEY_KIND_TEST}


async def create_org(call: Call[tenant.NewOrg, None]) -> tenant.Org:
    """POST /admin/orgs."""
    asked = call.body
    await refuse_plan_without_terms(call, asked.plan, field="plan")
    request = pb.CreateOrgRequest(
        name=asked.name,
        request_id=call.create_request_id("org"),
        limits=limits(asked.limits),
        plan=asked.plan,
        reserved_capacity=_reserved(asked.reserved_capacity),
        allowed_regions=region_codes(call.deps.regions, asked.allowed_regions),
        monthly_cap_picodollars=asked.monthly_cap_picodollars or 0,
        actor=call.actor,
    )
    return _org((await call.rpc(call.deps.identity().CreateOrg, request)).org)


async def list_orgs(call: Call[None, PageQuery]) -> tenant.OrgList:
    """GET /admin/orgs. Who belongs to organisations sees those."""
    if not call.who.on_platform:
        own = [pb.GetOrgRequest(id=org_id) for org_id in sorted(call.who.org_ids)]
        found = [(await call.rpc(call.deps.identity().GetOrg, request)).org for request in own]
        return tenant.OrgList(data=[_org(org) for org in found], next_page_token=None)
    request = pb.ListOrgsRequest(page_size=call.query.page_size, page_token=call.query.page_token)
    page = await call.rpc(call.deps.identity().ListOrgs, request)
    return tenant.OrgList(data=[_org(org) for org in page.orgs], next_page_token=text_or_none(page.next_page_token))


async def get_org(call: Call[None, None]) -> tenant.Org:
    """GET /admin/orgs/{id}."""
    return _org((await call.rpc(call.deps.identity().GetOrg, pb.GetOrgRequest(id=call.path["id"]))).org)


async def update_org(call: Call[tenant.OrgPatch, None]) -> tenant.Org:
    """PATCH /admin/orgs/{id}."""
    patch = call.body
    if patch.plan is not UNSET:
        await refuse_plan_without_terms(call, patch.plan, field="plan", org_id=call.path["id"])
    request = pb.UpdateOrgRequest(
        id=call.path["id"],
        name=_optional(patch.name),
        status=_status(patch.status),
        limits=_new_limits(patch.limits),
        plan=_optional(patch.plan),
        reserved_capacity=None
        if patch.reserved_capacity is UNSET
        else pb.ReservedCapacityList(reserved=_reserved(patch.reserved_capacity)),
        allowed_regions=_regions(call.deps.regions, patch.allowed_regions),
        monthly_cap_picodollars=_number(patch.monthly_cap_picodollars),
        status_reason=patch.status_reason,
        cut_streams=patch.cut_streams,
        actor=call.actor,
    )
    return _org((await call.rpc(call.deps.identity().UpdateOrg, request, may_refuse=True)).org)


async def create_environment(call: Call[tenant.NewEnvironment, None]) -> tenant.Environment:
    """POST /admin/orgs/{id}/environments."""
    request = pb.CreateEnvironmentRequest(
        org_id=call.path["id"],
        name=call.body.name,
        region=region_code(call.deps.regions, call.body.region, call.body.country),
        allowed_models=call.body.allowed_models,
        request_id=call.create_request_id(f"environment:{call.path['id']}"),
        limits=limits(call.body.limits),
        max_prompt_tokens=call.body.max_prompt_tokens or 0,
        max_output_tokens=call.body.max_output_tokens or 0,
        fallback_regions=region_codes(call.deps.regions, call.body.fallback_regions),
        residency_pinned=call.body.residency_pinned,
        monthly_cap_picodollars=call.body.monthly_cap_picodollars or 0,
        actor=call.actor,
    )
    return _environment((await call.rpc(call.deps.identity().CreateEnvironment, request)).environment)


async def list_environments(call: Call[None, PageQuery]) -> tenant.EnvironmentList:
    """GET /admin/orgs/{id}/environments."""
    request = pb.ListEnvironmentsRequest(
        org_id=call.path["id"], page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(call.deps.identity().ListEnvironments, request)
    return tenant.EnvironmentList(
        data=[_environment(environment) for environment in page.environments],
        next_page_token=text_or_none(page.next_page_token),
    )


async def get_environment(call: Call[None, None]) -> tenant.Environment:
    """GET /admin/environments/{id}."""
    request = pb.GetEnvironmentRequest(id=call.path["id"])
    return _environment((await call.rpc(call.deps.identity().GetEnvironment, request)).environment)


async def update_environment(call: Call[tenant.EnvironmentPatch, None]) -> tenant.Environment:
    """PATCH /admin/environments/{id}."""
    patch = call.body
    request = pb.UpdateEnvironmentRequest(
        id=call.path["id"],
        name=_optional(patch.name),
        status=_status(patch.status),
        region=_optional(patch.region if patch.region is UNSET else call.deps.regions.code(patch.region)),
        allowed_models=_models(patch.allowed_models),
        limits=_new_limits(patch.limits),
        max_prompt_tokens=_number(patch.max_prompt_tokens),
        max_output_tokens=_number(patch.max_output_tokens),
        fallback_regions=_regions(call.deps.regions, patch.fallback_regions),
        residency_pinned=None if patch.residency_pinned is UNSET else patch.residency_pinned,
        monthly_cap_picodollars=_number(patch.monthly_cap_picodollars),
        status_reason=patch.status_reason,
        cut_streams=patch.cut_streams,
        actor=call.actor,
    )
    return _environment((await call.rpc(call.deps.identity().UpdateEnvironment, request, may_refuse=True)).environment)


async def create_key(call: Call[tenant.NewKey, None]) -> tenant.CreatedKey:
    """POST /admin/environments/{id}/keys."""
    expire_time = call.body.expire_time
    request = pb.CreateApiKeyRequest(
        environment_id=call.path["id"],
        name=call.body.name,
        kind=_KIND[call.body.kind],
        allowed_models=call.body.allowed_models,
        expire_time=None if expire_time is None else timestamp(expire_time, "expire_time"),
        limits=limits(call.body.limits),
        allowed_regions=region_codes(call.deps.regions, call.body.allowed_regions),
        allowed_cidrs=call.body.allowed_cidrs,
        monthly_cap_picodollars=call.body.monthly_cap_picodollars or 0,
        actor=call.actor,
    )
    answer = await call.rpc(call.deps.identity().CreateApiKey, request)
    return tenant.CreatedKey(**_key_fields(answer.api_key), key=answer.secret)


async def list_keys(call: Call[None, PageQuery]) -> tenant.KeyList:
    """GET /admin/environments/{id}/keys."""
    request = pb.ListApiKeysRequest(
        environment_id=call.path["id"], page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(call.deps.identity().ListApiKeys, request)
    return tenant.KeyList(data=[_key(key) for key in page.api_keys], next_page_token=text_or_none(page.next_page_token))


async def get_key(call: Call[None, None]) -> tenant.Key:
    """GET /admin/keys/{id}."""
    return _key((await call.rpc(call.deps.identity().GetApiKey, pb.GetApiKeyRequest(id=call.path["id"]))).api_key)


async def update_key(call: Call[tenant.KeyPatch, None]) -> tenant.Key:
    """PATCH /admin/keys/{id}."""
    patch = call.body
    request = pb.UpdateApiKeyRequest(
        id=call.path["id"],
        name=_optional(patch.name),
        status=_status(patch.status),
        allowed_models=_models(patch.allowed_models),
        limits=_new_limits(patch.limits),
        allowed_regions=_regions(call.deps.regions, patch.allowed_regions),
        allowed_cidrs=None if patch.allowed_cidrs is UNSET else pb.CidrList(cidrs=patch.allowed_cidrs),
        monthly_cap_picodollars=_number(patch.monthly_cap_picodollars),
        status_reason=patch.status_reason,
        cut_streams=patch.cut_streams,
        actor=call.actor,
    )
    return _key((await call.rpc(call.deps.identity().UpdateApiKey, request, may_refuse=True)).api_key)


async def revoke_key(call: Call[None, tenant.KeyRevocation]) -> tenant.Key:
    """DELETE /admin/keys/{id}."""
    request = pb.RevokeApiKeyRequest(id=call.path["id"], cut_streams=call.query.cut_streams, actor=call.actor)
    return _key((await call.rpc(call.deps.identity().RevokeApiKey, request)).api_key)


async def rotate_key(call: Call[tenant.KeyRotation, None]) -> tenant.RotatedKey:
    """POST /admin/keys/{id}/rotate."""
    request = pb.RotateApiKeyRequest(
        id=call.path["id"], overlap_s=call.body.overlap_s, cut_streams=call.body.cut_streams, actor=call.actor
    )
    answer = await call.rpc(call.deps.identity().RotateApiKey, request)
    return tenant.RotatedKey(**_key_fields(answer.api_key), key=answer.secret, old_key=_key(answer.old_api_key))


def _optional(text: str | UnsetType) -> str | None:
    return None if text is UNSET else text


def _status(word: str | UnsetType) -> pb.Status.ValueType | None:
    return None if word is UNSET else _STATUS[word]


def limits(asked: tenant.Limits) -> pb.Limits:
    """Limits for identity; null is unset."""
    return pb.Limits(**{name: value for name, value in structs.asdict(asked).items() if value is not None})


def shown_limits(message: pb.Limits) -> tenant.Limits:
    """Limits for people; unset is null."""
    return tenant.Limits(**{field.name: value for field, value in message.ListFields()})


def _new_limits(asked: tenant.Limits | UnsetType) -> pb.Limits | None:
    return None if asked is UNSET else limits(asked)


def _number(asked: int | UnsetType | None) -> int | None:
    """A number that null sets back to 0."""
    return None if asked is UNSET else asked or 0


def _regions(regions: RegionTable, names: list[str] | UnsetType) -> pb.RegionList | None:
    return None if names is UNSET else pb.RegionList(regions=region_codes(regions, names))


def _reserved(capacity: dict[str, int]) -> list[pb.ReservedCapacity]:
    return [pb.ReservedCapacity(model=model, capacity_units=units) for model, units in capacity.items()]


def _models(names: list[str] | UnsetType) -> pb.ModelList | None:
    return None if names is UNSET else pb.ModelList(models=names)


def _org(org: pb.Org) -> tenant.Org:
    return tenant.Org(
        id=org.id,
        name=org.name,
        status="suspended" if org.status == pb.STATUS_SUSPENDED else "active",
        status_reason=org.status_reason,
        plan=org.plan,
        limits=shown_limits(org.limits),
        reserved_capacity={one.model: one.capacity_units for one in org.reserved_capacity},
        allowed_regions=list(org.allowed_regions),
        monthly_cap_picodollars=org.monthly_cap_picodollars or None,
        create_time=time(org.create_time),
        update_time=time(org.update_time),
    )


def _environment(environment: pb.Environment) -> tenant.Environment:
    return tenant.Environment(
        id=environment.id,
        org_id=environment.org_id,
        name=environment.name,
        status="suspended" if environment.status == pb.STATUS_SUSPENDED else "active",
        region=environment.region,
        status_reason=environment.status_reason,
        allowed_models=list(environment.allowed_models),
        limits=shown_limits(environment.limits),
        max_prompt_tokens=environment.max_prompt_tokens or None,
        max_output_tokens=environment.max_output_tokens or None,
        fallback_regions=list(environment.fallback_regions),
        residency_pinned=environment.residency_pinned,
        monthly_cap_picodollars=environment.monthly_cap_picodollars or None,
        create_time=time(environment.create_time),
        update_time=time(environment.update_time),
    )


def _key(key: pb.ApiKey) -> tenant.Key:
    return tenant.Key(**_key_fields(key))


def _key_fields(key: pb.ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "org_id": key.org_id,
        "environment_id": key.environment_id,
        "name": key.name,
        "kind": "test" if key.kind == pb.API_KEY_KIND_TEST else "live",
        "status": _KEY_STATUS.get(key.status, "active"),
        "hint": key.hint,
        "status_reason": key.status_reason,
        "allowed_models": list(key.allowed_models),
        "limits": shown_limits(key.limits),
        "allowed_regions": list(key.allowed_regions),
        "allowed_cidrs": list(key.allowed_cidrs),
        "monthly_cap_picodollars": key.monthly_cap_picodollars or None,
        "create_time": time(key.create_time),
        "expire_time": optional_time(key, "expire_time"),
        "revoke_time": optional_time(key, "revoke_time"),
    }

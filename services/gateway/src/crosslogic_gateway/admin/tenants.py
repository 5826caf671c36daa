"""Organisations, environments and keys."""

from typing import Any

from msgspec import UNSET, UnsetType

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_gateway.admin import schemas
from crosslogic_gateway.admin.conversion import optional_time, text_or_none, time, timestamp
from crosslogic_gateway.admin.operation import Call

_STATUS = {"active": pb.STATUS_ACTIVE, "suspended": pb.STATUS_SUSPENDED}
_KEY_STATUS = {pb.STATUS_SUSPENDED: "suspended", pb.STATUS_REVOKED: "revoked"}
_KIND = {"live": pb.API_KEY_KIND_LIVE, "test": pb.API_KEY_KIND_TEST}


async def create_org(call: Call[schemas.NewOrg, None]) -> schemas.Org:
    """POST /admin/orgs."""
    request = pb.CreateOrgRequest(name=call.body.name, request_id=call.create_request_id("org"))
    return _org((await call.rpc(call.deps.identity().CreateOrg, request)).org)


async def list_orgs(call: Call[None, schemas.PageQuery]) -> schemas.OrgList:
    """GET /admin/orgs."""
    request = pb.ListOrgsRequest(page_size=call.query.page_size, page_token=call.query.page_token)
    page = await call.rpc(call.deps.identity().ListOrgs, request)
    return schemas.OrgList(data=[_org(org) for org in page.orgs], next_page_token=text_or_none(page.next_page_token))


async def get_org(call: Call[None, None]) -> schemas.Org:
    """GET /admin/orgs/{id}."""
    return _org((await call.rpc(call.deps.identity().GetOrg, pb.GetOrgRequest(id=call.path["id"]))).org)


async def update_org(call: Call[schemas.OrgPatch, None]) -> schemas.Org:
    """PATCH /admin/orgs/{id}."""
    patch = call.body
    request = pb.UpdateOrgRequest(id=call.path["id"], name=_optional(patch.name), status=_status(patch.status))
    return _org((await call.rpc(call.deps.identity().UpdateOrg, request)).org)


async def create_environment(call: Call[schemas.NewEnvironment, None]) -> schemas.Environment:
    """POST /admin/orgs/{id}/environments."""
    request = pb.CreateEnvironmentRequest(
        org_id=call.path["id"],
        name=call.body.name,
        region=call.body.region,
        allowed_models=call.body.allowed_models,
        request_id=call.create_request_id(f"environment:{call.path['id']}"),
    )
    return _environment((await call.rpc(call.deps.identity().CreateEnvironment, request)).environment)


async def list_environments(call: Call[None, schemas.PageQuery]) -> schemas.EnvironmentList:
    """GET /admin/orgs/{id}/environments."""
    request = pb.ListEnvironmentsRequest(
        org_id=call.path["id"], page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(call.deps.identity().ListEnvironments, request)
    return schemas.EnvironmentList(
        data=[_environment(environment) for environment in page.environments],
        next_page_token=text_or_none(page.next_page_token),
    )


async def get_environment(call: Call[None, None]) -> schemas.Environment:
    """GET /admin/environments/{id}."""
    request = pb.GetEnvironmentRequest(id=call.path["id"])
    return _environment((await call.rpc(call.deps.identity().GetEnvironment, request)).environment)


async def update_environment(call: Call[schemas.EnvironmentPatch, None]) -> schemas.Environment:
    """PATCH /admin/environments/{id}."""
    patch = call.body
    request = pb.UpdateEnvironmentRequest(
        id=call.path["id"],
        name=_optional(patch.name),
        status=_status(patch.status),
        region=_optional(patch.region),
        allowed_models=_models(patch.allowed_models),
    )
    return _environment((await call.rpc(call.deps.identity().UpdateEnvironment, request)).environment)


async def create_key(call: Call[schemas.NewKey, None]) -> schemas.CreatedKey:
    """POST /admin/environments/{id}/keys."""
    expire_time = call.body.expire_time
    request = pb.CreateApiKeyRequest(
        environment_id=call.path["id"],
        name=call.body.name,
        kind=_KIND[call.body.kind],
        allowed_models=call.body.allowed_models,
        expire_time=None if expire_time is None else timestamp(expire_time, "expire_time"),
    )
    answer = await call.rpc(call.deps.identity().CreateApiKey, request)
    return schemas.CreatedKey(**_key_fields(answer.api_key), key=answer.secret)


async def list_keys(call: Call[None, schemas.PageQuery]) -> schemas.KeyList:
    """GET /admin/environments/{id}/keys."""
    request = pb.ListApiKeysRequest(
        environment_id=call.path["id"], page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(call.deps.identity().ListApiKeys, request)
    return schemas.KeyList(
        data=[_key(key) for key in page.api_keys], next_page_token=text_or_none(page.next_page_token)
    )


async def get_key(call: Call[None, None]) -> schemas.Key:
    """GET /admin/keys/{id}."""
    return _key((await call.rpc(call.deps.identity().GetApiKey, pb.GetApiKeyRequest(id=call.path["id"]))).api_key)


async def update_key(call: Call[schemas.KeyPatch, None]) -> schemas.Key:
    """PATCH /admin/keys/{id}."""
    patch = call.body
    request = pb.UpdateApiKeyRequest(
        id=call.path["id"],
        name=_optional(patch.name),
        status=_status(patch.status),
        allowed_models=_models(patch.allowed_models),
    )
    return _key((await call.rpc(call.deps.identity().UpdateApiKey, request)).api_key)


async def revoke_key(call: Call[None, None]) -> schemas.Key:
    """DELETE /admin/keys/{id}."""
    request = pb.RevokeApiKeyRequest(id=call.path["id"])
    return _key((await call.rpc(call.deps.identity().RevokeApiKey, request)).api_key)


async def rotate_key(call: Call[schemas.KeyRotation, None]) -> schemas.RotatedKey:
    """POST /admin/keys/{id}/rotate."""
    request = pb.RotateApiKeyRequest(id=call.path["id"], overlap_s=call.body.overlap_s)
    answer = await call.rpc(call.deps.identity().RotateApiKey, request)
    return schemas.RotatedKey(**_key_fields(answer.api_key), key=answer.secret, old_key=_key(answer.old_api_key))


def _optional(text: str | UnsetType) -> str | None:
    return None if text is UNSET else text


def _status(word: str | UnsetType) -> pb.Status.ValueType | None:
    return None if word is UNSET else _STATUS[word]


def _models(names: list[str] | UnsetType) -> pb.ModelList | None:
    return None if names is UNSET else pb.ModelList(models=names)


def _org(org: pb.Org) -> schemas.Org:
    return schemas.Org(
        id=org.id,
        name=org.name,
        status="suspended" if org.status == pb.STATUS_SUSPENDED else "active",
        create_time=time(org.create_time),
        update_time=time(org.update_time),
    )


def _environment(environment: pb.Environment) -> schemas.Environment:
    return schemas.Environment(
        id=environment.id,
        org_id=environment.org_id,
        name=environment.name,
        status="suspended" if environment.status == pb.STATUS_SUSPENDED else "active",
        region=environment.region,
        allowed_models=list(environment.allowed_models),
        create_time=time(environment.create_time),
        update_time=time(environment.update_time),
    )


def _key(key: pb.ApiKey) -> schemas.Key:
    return schemas.Key(**_key_fields(key))


def _key_fields(key: pb.ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "org_id": key.org_id,
        "environment_id": key.environment_id,
        "name": key.name,
        "kind": "test" if key.kind == pb.API_KEY_KIND_TEST else "live",
        "status": _KEY_STATUS.get(key.status, "active"),
        "hint": key.hint,
        "allowed_models": list(key.allowed_models),
        "create_time": time(key.create_time),
        "expire_time": optional_time(key, "expire_time"),
        "revoke_time": optional_time(key, "revoke_time"),
    }

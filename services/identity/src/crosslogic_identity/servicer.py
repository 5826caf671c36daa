"""Protobuf to domain and back."""

# gRPC hands every method both its arguments

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic.identity.v1 import identity_pb2_grpc as rpc
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import page_limit, page_start, page_token
from crosslogic_identity import domain, policy
from crosslogic_identity.metrics import IdentityMetrics
from crosslogic_identity.revocations import RevocationHub
from crosslogic_identity.service import IdentityService
from crosslogic_identity.shared_cache import SharedCache

_STATUS: dict[domain.Status, pb.Status.ValueType] = {
    "active": pb.STATUS_ACTIVE,
    "suspended": pb.STATUS_SUSPENDED,
    "revoked": pb.STATUS_REVOKED,
}
_SETTABLE: dict[int, domain.Status] = {pb.STATUS_ACTIVE: "active", pb.STATUS_SUSPENDED: "suspended"}
_KIND: dict[domain.Kind, pb.ApiKeyKind.ValueType] = {"live": pb.API_KEY_KIND_LIVE, "test": pb.API_KEY_KIND_TEST}
_ASKED_KIND: dict[int, domain.Kind] = {
    pb.API_KEY_KIND_UNSPECIFIED: "live",
    pb.API_KEY_KIND_LIVE: "live",
    pb.API_KEY_KIND_TEST: "test",
}
_RESULTS = {ErrorCode.INVALID_API_KEY: "refused", ErrorCode.TENANT_SUSPENDED: "suspended"}
_LAST_SECOND = 253_402_300_799
"""Of the year 9999."""
Context = grpc.aio.ServicerContext[Any, Any]


class IdentityServicer(rpc.IdentityServiceServicer):
    """IdentityService."""

    def __init__(
        self, *, service: IdentityService, hub: RevocationHub, cache: SharedCache, metrics: IdentityMetrics
    ) -> None:
        self._service = service
        self._hub = hub
        self._cache = cache
        self._metrics = metrics

    async def CreateOrg(self, request: pb.CreateOrgRequest, context: Context) -> pb.CreateOrgResponse:
        org = await self._service.create_org(request.name, _request_id(request.request_id))
        return pb.CreateOrgResponse(org=_org(org))

    async def GetOrg(self, request: pb.GetOrgRequest, context: Context) -> pb.GetOrgResponse:
        return pb.GetOrgResponse(org=_org(await self._service.org(_id(request.id))))

    async def ListOrgs(self, request: pb.ListOrgsRequest, context: Context) -> pb.ListOrgsResponse:
        limit = page_limit(request.page_size)
        orgs = await self._service.orgs(page_start(request.page_token), limit + 1)
        return pb.ListOrgsResponse(
            orgs=[_org(org) for org in orgs[:limit]], next_page_token=page_token([org.id for org in orgs], limit)
        )

    async def UpdateOrg(self, request: pb.UpdateOrgRequest, context: Context) -> pb.UpdateOrgResponse:
        changes = domain.Changes(
            name=request.name if request.HasField("name") else None,
            status=_new_status(request.status) if request.HasField("status") else None,
        )
        return pb.UpdateOrgResponse(org=_org(await self._service.change_org(_id(request.id), changes)))

    async def CreateEnvironment(
        self, request: pb.CreateEnvironmentRequest, context: Context
    ) -> pb.CreateEnvironmentResponse:
        environment = await self._service.create_environment(
            _id(request.org_id),
            request.name,
            request.region,
            tuple(request.allowed_models),
            _request_id(request.request_id),
        )
        return pb.CreateEnvironmentResponse(environment=_environment(environment))

    async def GetEnvironment(self, request: pb.GetEnvironmentRequest, context: Context) -> pb.GetEnvironmentResponse:
        return pb.GetEnvironmentResponse(environment=_environment(await self._service.environment(_id(request.id))))

    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, context: Context
    ) -> pb.ListEnvironmentsResponse:
        limit = page_limit(request.page_size)
        found = await self._service.environments(_id(request.org_id), page_start(request.page_token), limit + 1)
        return pb.ListEnvironmentsResponse(
            environments=[_environment(environment) for environment in found[:limit]],
            next_page_token=page_token([environment.id for environment in found], limit),
        )

    async def UpdateEnvironment(
        self, request: pb.UpdateEnvironmentRequest, context: Context
    ) -> pb.UpdateEnvironmentResponse:
        changes = domain.Changes(
            name=request.name if request.HasField("name") else None,
            status=_new_status(request.status) if request.HasField("status") else None,
            region=request.region if request.HasField("region") else None,
            allowed_models=tuple(request.allowed_models.models) if request.HasField("allowed_models") else None,
        )
        environment = await self._service.change_environment(_id(request.id), changes)
        return pb.UpdateEnvironmentResponse(environment=_environment(environment))

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Context) -> pb.CreateApiKeyResponse:
        key, secret = await self._service.create_api_key(
            _id(request.environment_id),
            request.name,
            _asked_kind(request.kind),
            tuple(request.allowed_models),
            _asked_time(request.expire_time) if request.HasField("expire_time") else None,
        )
        return pb.CreateApiKeyResponse(api_key=_api_key(key), secret=secret)

    async def GetApiKey(self, request: pb.GetApiKeyRequest, context: Context) -> pb.GetApiKeyResponse:
        return pb.GetApiKeyResponse(api_key=_api_key(await self._service.api_key(_id(request.id))))

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Context) -> pb.ListApiKeysResponse:
        limit = page_limit(request.page_size)
        found = await self._service.api_keys(_id(request.environment_id), page_start(request.page_token), limit + 1)
        return pb.ListApiKeysResponse(
            api_keys=[_api_key(key) for key in found[:limit]],
            next_page_token=page_token([key.id for key in found], limit),
        )

    async def UpdateApiKey(self, request: pb.UpdateApiKeyRequest, context: Context) -> pb.UpdateApiKeyResponse:
        changes = domain.Changes(
            name=request.name if request.HasField("name") else None,
            status=_new_status(request.status) if request.HasField("status") else None,
            allowed_models=tuple(request.allowed_models.models) if request.HasField("allowed_models") else None,
        )
        return pb.UpdateApiKeyResponse(api_key=_api_key(await self._service.change_api_key(_id(request.id), changes)))

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Context) -> pb.RevokeApiKeyResponse:
        return pb.RevokeApiKeyResponse(api_key=_api_key(await self._service.revoke_api_key(_id(request.id))))

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, context: Context) -> pb.RotateApiKeyResponse:
        key, secret, old = await self._service.rotate_api_key(_id(request.id), request.overlap_s)
        return pb.RotateApiKeyResponse(api_key=_api_key(key), secret=secret, old_api_key=_api_key(old))

    async def ResolveApiKey(self, request: pb.ResolveApiKeyRequest, context: Context) -> pb.ResolveApiKeyResponse:
        # Before the database is asked: what is revoked from here on voids what is kept below.
        generation = await self._cache.generation()
        try:
            principal = _principal(await self._service.resolve(request.key_sha256))
        except CodedError as error:
            self._metrics.resolved(_RESULTS.get(error.code, "failed"))
            raise
        self._metrics.resolved("found")
        if generation is not None:
            self._cache.put(request.key_sha256, principal, generation)
        return pb.ResolveApiKeyResponse(principal=principal)

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        with self._hub.watching() as watcher:
            while True:
                yield _revocation(await watcher.next())


def _revocation(revocation: domain.Revocation | None) -> pb.WatchRevocationsResponse:
    if revocation is None:
        return pb.WatchRevocationsResponse(resync=True)
    if revocation.scope == "org":
        return pb.WatchRevocationsResponse(org_id=revocation.id)
    if revocation.scope == "environment":
        return pb.WatchRevocationsResponse(environment_id=revocation.id)
    return pb.WatchRevocationsResponse(api_key_id=revocation.id)


def _id(text: str) -> str:
    """An id as stored. A text that is no UUID names nothing."""
    try:
        return str(UUID(text))
    except ValueError:
        raise CodedError(ErrorCode.NOT_FOUND) from None


def _request_id(text: str) -> str:
    if not text:
        return ""
    try:
        return str(UUID(text))
    except ValueError:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`request_id` must be a UUID.", param="request_id") from None


def _new_status(status: int) -> domain.Status:
    if status not in _SETTABLE:
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            "`status` must be active or suspended; revoking is a call of its own.",
            param="status",
        )
    return _SETTABLE[status]


def _asked_kind(kind: int) -> domain.Kind:
    if kind not in _ASKED_KIND:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`kind` must be live or test.", param="kind")
    return _ASKED_KIND[kind]


def _asked_time(stamp: Timestamp) -> datetime:
    if not 0 <= stamp.seconds <= _LAST_SECOND or not 0 <= stamp.nanos < 10**9:
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT, "`expire_time` must be between 1970 and 9999.", param="expire_time"
        )
    return stamp.ToDatetime(tzinfo=UTC)


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _org(org: domain.Org) -> pb.Org:
    return pb.Org(
        id=org.id,
        name=org.name,
        status=_STATUS[org.status],
        create_time=_time(org.created_at),
        update_time=_time(org.updated_at),
    )


def _environment(environment: domain.Environment) -> pb.Environment:
    return pb.Environment(
        id=environment.id,
        org_id=environment.org_id,
        name=environment.name,
        status=_STATUS[environment.status],
        region=environment.region,
        allowed_models=environment.allowed_models,
        create_time=_time(environment.created_at),
        update_time=_time(environment.updated_at),
    )


def _api_key(key: domain.ApiKey) -> pb.ApiKey:
    return pb.ApiKey(
        id=key.id,
        org_id=key.org_id,
        environment_id=key.environment_id,
        name=key.name,
        kind=_KIND[key.kind],
        status=_STATUS[key.status],
        hint=key.hint,
        allowed_models=key.allowed_models,
        create_time=_time(key.created_at),
        expire_time=_time(key.expires_at),
        revoke_time=_time(key.revoked_at),
    )


def _principal(owner: domain.KeyOwner) -> pb.Principal:
    models = policy.models_of(owner)
    return pb.Principal(
        org_id=owner.org.id,
        environment_id=owner.environment.id,
        api_key_id=owner.key.id,
        kind=_KIND[owner.key.kind],
        region=owner.environment.region,
        allowed_models=sorted(models or ()),
        all_models=models is None,
        cache_salt=owner.org.cache_salt,
        expire_time=_time(owner.key.expires_at),
    )

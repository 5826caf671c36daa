"""IdentityService over gRPC: protobuf in, a use case, protobuf out."""

# gRPC hands every method both its arguments

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic.identity.v1 import identity_pb2_grpc as rpc
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import page_limit, page_start, page_token
from crosslogic_identity import messages, requests
from crosslogic_identity.audit import Head
from crosslogic_identity.audit_log import MAX_LOOKED_AT, AuditLog
from crosslogic_identity.messages import filter_id, object_id
from crosslogic_identity.metrics import IdentityMetrics
from crosslogic_identity.plans import Plans
from crosslogic_identity.revocations import RevocationHub
from crosslogic_identity.service import IdentityService
from crosslogic_identity.shared_cache import SharedCache
from crosslogic_identity.term_changes import PostgresTermChanges
from crosslogic_identity.users import Users

_RESULTS = {ErrorCode.INVALID_API_KEY: "refused", ErrorCode.TENANT_SUSPENDED: "suspended"}
_MAX_PLAN_NAME = 63
ALIVE_EVERY_S = 1.0
"""A gateway that hears nothing for three times as long takes this service to hang, and asks another."""
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCases:
    """What the servicer translates for."""

    tenants: IdentityService
    plans: Plans
    users: Users
    audit: AuditLog
    term_changes: PostgresTermChanges


class IdentityServicer(rpc.IdentityServiceServicer):
    """IdentityService."""

    def __init__(
        self, *, use_cases: UseCases, hub: RevocationHub, cache: SharedCache, metrics: IdentityMetrics
    ) -> None:
        self._service = use_cases.tenants
        self._plans = use_cases.plans
        self._users = use_cases.users
        self._audit = use_cases.audit
        self._term_changes = use_cases.term_changes
        self._hub = hub
        self._cache = cache
        self._metrics = metrics

    async def CreateOrg(self, request: pb.CreateOrgRequest, context: Context) -> pb.CreateOrgResponse:
        org = await self._service.create_org(
            requests.org_of(request),
            filter_id(request.request_id, "request_id"),
            requests.actor_of(request.actor, context),
        )
        return pb.CreateOrgResponse(org=messages.org(org))

    async def GetOrg(self, request: pb.GetOrgRequest, context: Context) -> pb.GetOrgResponse:
        return pb.GetOrgResponse(org=messages.org(await self._service.org(object_id(request.id))))

    async def ListOrgs(self, request: pb.ListOrgsRequest, context: Context) -> pb.ListOrgsResponse:
        limit = page_limit(request.page_size)
        found = await self._service.orgs(page_start(request.page_token), limit + 1)
        return pb.ListOrgsResponse(
            orgs=[messages.org(org) for org in found[:limit]],
            next_page_token=page_token([org.id for org in found], limit),
        )

    async def UpdateOrg(self, request: pb.UpdateOrgRequest, context: Context) -> pb.UpdateOrgResponse:
        org = await self._service.change_org(
            object_id(request.id),
            requests.org_changes(request),
            requests.actor_of(request.actor, context),
            cut_streams=request.cut_streams,
        )
        return pb.UpdateOrgResponse(org=messages.org(org))

    async def CreateEnvironment(
        self, request: pb.CreateEnvironmentRequest, context: Context
    ) -> pb.CreateEnvironmentResponse:
        environment = await self._service.create_environment(
            object_id(request.org_id),
            requests.environment_of(request),
            filter_id(request.request_id, "request_id"),
            requests.actor_of(request.actor, context),
        )
        return pb.CreateEnvironmentResponse(environment=messages.environment(environment))

    async def GetEnvironment(self, request: pb.GetEnvironmentRequest, context: Context) -> pb.GetEnvironmentResponse:
        environment = await self._service.environment(object_id(request.id))
        return pb.GetEnvironmentResponse(environment=messages.environment(environment))

    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, context: Context
    ) -> pb.ListEnvironmentsResponse:
        limit = page_limit(request.page_size)
        start = page_start(request.page_token)
        found = await self._service.environments(object_id(request.org_id), start, limit + 1)
        return pb.ListEnvironmentsResponse(
            environments=[messages.environment(environment) for environment in found[:limit]],
            next_page_token=page_token([environment.id for environment in found], limit),
        )

    async def UpdateEnvironment(
        self, request: pb.UpdateEnvironmentRequest, context: Context
    ) -> pb.UpdateEnvironmentResponse:
        environment = await self._service.change_environment(
            object_id(request.id),
            requests.environment_changes(request),
            requests.actor_of(request.actor, context),
            cut_streams=request.cut_streams,
        )
        return pb.UpdateEnvironmentResponse(environment=messages.environment(environment))

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Context) -> pb.CreateApiKeyResponse:
        key, secret = await self._service.create_api_key(
            object_id(request.environment_id),
            requests.key_of(request),
            messages.asked_kind(request.kind),
            messages.asked_time(request.expire_time) if request.HasField("expire_time") else None,
            requests.actor_of(request.actor, context),
        )
        return pb.CreateApiKeyResponse(api_key=messages.api_key(key), secret=secret)

    async def GetApiKey(self, request: pb.GetApiKeyRequest, context: Context) -> pb.GetApiKeyResponse:
        return pb.GetApiKeyResponse(api_key=messages.api_key(await self._service.api_key(object_id(request.id))))

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Context) -> pb.ListApiKeysResponse:
        limit = page_limit(request.page_size)
        start = page_start(request.page_token)
        found = await self._service.api_keys(object_id(request.environment_id), start, limit + 1)
        return pb.ListApiKeysResponse(
            api_keys=[messages.api_key(key) for key in found[:limit]],
            next_page_token=page_token([key.id for key in found], limit),
        )

    async def UpdateApiKey(self, request: pb.UpdateApiKeyRequest, context: Context) -> pb.UpdateApiKeyResponse:
        key = await self._service.change_api_key(
            object_id(request.id),
            requests.key_changes(request),
            requests.actor_of(request.actor, context),
            cut_streams=request.cut_streams,
        )
        return pb.UpdateApiKeyResponse(api_key=messages.api_key(key))

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Context) -> pb.RevokeApiKeyResponse:
        by = requests.actor_of(request.actor, context)
        key = await self._service.revoke_api_key(object_id(request.id), by, cut_streams=request.cut_streams)
        return pb.RevokeApiKeyResponse(api_key=messages.api_key(key))

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, context: Context) -> pb.RotateApiKeyResponse:
        key, secret, old = await self._service.rotate_api_key(
            object_id(request.id),
            request.overlap_s,
            requests.actor_of(request.actor, context),
            cut_streams=request.cut_streams,
        )
        return pb.RotateApiKeyResponse(api_key=messages.api_key(key), secret=secret, old_api_key=messages.api_key(old))

    async def CreatePlan(self, request: pb.CreatePlanRequest, context: Context) -> pb.CreatePlanResponse:
        by = requests.actor_of(request.actor, context)
        plan = await self._plans.create(request.plan.name, requests.plan_of(request.plan), by)
        return pb.CreatePlanResponse(plan=messages.plan(plan))

    async def GetPlan(self, request: pb.GetPlanRequest, context: Context) -> pb.GetPlanResponse:
        return pb.GetPlanResponse(plan=messages.plan(await self._plans.plan(request.name)))

    async def ListPlans(self, request: pb.ListPlansRequest, context: Context) -> pb.ListPlansResponse:
        limit = page_limit(request.page_size)
        if len(request.page_token) > _MAX_PLAN_NAME or "\0" in request.page_token:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`page_token` is none of ours.", param="page_token")
        found = await self._plans.plans(request.page_token, limit + 1)
        return pb.ListPlansResponse(
            plans=[messages.plan(plan) for plan in found[:limit]],
            next_page_token=found[limit - 1].name if len(found) > limit else "",
        )

    async def UpdatePlan(self, request: pb.UpdatePlanRequest, context: Context) -> pb.UpdatePlanResponse:
        by = requests.actor_of(request.actor, context)
        plan = await self._plans.change(request.name, requests.plan_changes(request), by)
        return pb.UpdatePlanResponse(plan=messages.plan(plan))

    async def ListTermChanges(self, request: pb.ListTermChangesRequest, context: Context) -> pb.ListTermChangesResponse:
        limit = page_limit(request.page_size)
        since = messages.asked_time(request.since_time, "since_time") if request.HasField("since_time") else None
        found = await self._term_changes.page(since=since, after=_page_number(request.page_token), limit=limit + 1)
        return pb.ListTermChangesResponse(
            changes=[messages.term_change(change) for change in found[:limit]],
            next_page_token=str(found[limit - 1].id) if len(found) > limit else "",
        )

    async def CreateUser(self, request: pb.CreateUserRequest, context: Context) -> pb.CreateUserResponse:
        user = await self._users.create(
            object_id(request.org_id) if request.org_id else "",
            request.email,
            request.name,
            messages.word(messages.ROLE, request.role, "role"),
            requests.actor_of(request.actor, context),
        )
        return pb.CreateUserResponse(user=messages.user(user))

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        return pb.GetUserResponse(user=messages.user(await self._users.user(object_id(request.id))))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        limit = page_limit(request.page_size)
        org_id = object_id(request.org_id) if request.org_id else ""
        found = await self._users.users(org_id, page_start(request.page_token), limit + 1)
        return pb.ListUsersResponse(
            users=[messages.user(user) for user in found[:limit]],
            next_page_token=page_token([user.id for user in found], limit),
        )

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Context) -> pb.UpdateUserResponse:
        by = requests.actor_of(request.actor, context)
        user = await self._users.change(object_id(request.id), requests.user_changes(request), by)
        return pb.UpdateUserResponse(user=messages.user(user))

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Context) -> pb.DeleteUserResponse:
        user = await self._users.remove(object_id(request.id), requests.actor_of(request.actor, context))
        return pb.DeleteUserResponse(user=messages.user(user))

    async def ResolveUser(self, request: pb.ResolveUserRequest, context: Context) -> pb.ResolveUserResponse:
        by = requests.actor_of(request.actor, context)
        users = await self._users.resolve(request.issuer, request.subject, request.confirmed_email, by)
        return pb.ResolveUserResponse(users=[messages.user(user) for user in users])

    async def RecordAudit(self, request: pb.RecordAuditRequest, context: Context) -> pb.RecordAuditResponse:
        record = await self._audit.record(requests.audit_entry(request, context))
        return pb.RecordAuditResponse(seq=record.seq)

    async def ListAuditRecords(
        self, request: pb.ListAuditRecordsRequest, context: Context
    ) -> pb.ListAuditRecordsResponse:
        limit = page_limit(request.page_size)
        found = await self._audit.records(
            _page_number(request.page_token),
            limit + 1,
            org_id=filter_id(request.org_id, "org_id"),
            object_id=request.object_id,
            action=request.action,
        )
        return pb.ListAuditRecordsResponse(
            records=[messages.audit_record(record) for record in found[:limit]],
            next_page_token=str(found[limit - 1].seq) if len(found) > limit else "",
        )

    async def VerifyAuditLog(self, request: pb.VerifyAuditLogRequest, context: Context) -> pb.VerifyAuditLogResponse:
        if request.max_records > MAX_LOOKED_AT:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT, f"`max_records` must be 1 to {MAX_LOOKED_AT}.", param="max_records"
            )
        for field, seq in (("from_seq", request.from_seq), ("known_seq", request.known_seq)):
            if seq >= 2**62:
                raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` is no record's number.", param=field)
        known = Head(request.known_seq, request.known_hash) if request.known_seq else None
        verdict = await self._audit.verify(request.from_seq, request.max_records or MAX_LOOKED_AT, known)
        return pb.VerifyAuditLogResponse(
            intact=verdict.intact,
            broken_seq=verdict.broken_seq,
            problem=verdict.problem,
            records=verdict.records,
            next_seq=verdict.next_seq,
            head_seq=verdict.head.seq,
            head_hash=verdict.head.hash,
        )

    async def ResolveApiKey(self, request: pb.ResolveApiKeyRequest, context: Context) -> pb.ResolveApiKeyResponse:
        # Before the database is asked: what is revoked from here on voids what is kept below.
        generation = await self._cache.generation()
        try:
            principal = messages.principal(await self._service.resolve(request.key_sha256))
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
                try:
                    async with asyncio.timeout(ALIVE_EVERY_S):
                        revocation = await watcher.next()
                except TimeoutError:
                    yield pb.WatchRevocationsResponse(alive=True)
                    continue
                yield messages.revocation(revocation)


def _page_number(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal()) or len(token) > 18:  # noqa: PLR2004  # fits a bigint
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`page_token` is none of ours.", param="page_token")
    return int(token)

"""Identity, registry and accountant as the admin API's stubs see them: in memory, with gRPC's own errors."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from aiohttp import web
from aiohttp.test_utils import TestClient
from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.settings import Secret
from crosslogic_gateway.admin import AdminDeps, make_admin_routes
from crosslogic_gateway.http import REQUEST_ID, SHOWN_REQUEST_ID, error_response
from crosslogic_gateway.openapi import make_openapi_routes
from tests.fakes.admin_billing import FakeBilling
from tests.fakes.admin_budgets import FakeBudgets
from tests.fakes.admin_deployments import FakeDeployments
from tests.fakes.admin_model_store import FakeModelStore
from tests.fakes.admin_notifications import FakeNotifications
from tests.fakes.admin_orchestrator import FakeOrchestrator
from tests.fakes.admin_stub import FakeStub
from tests.fakes.admin_upgrades import FakeUpgrades

AdminClient = TestClient[web.Request, web.Application]
TOKEN = "operators-only-token"
NOW = Timestamp(seconds=1_795_000_000, nanos=123_456_000)


class FakeIdentity(FakeStub):
    """Stores what it is told; checks nothing but existence."""

    def __init__(self) -> None:
        super().__init__()
        self._ids = (str(UUID(int=number)) for number in itertools.count(1))
        self.orgs: dict[str, identity_pb.Org] = {}
        self.environments: dict[str, identity_pb.Environment] = {}
        self.keys: dict[str, identity_pb.ApiKey] = {}
        self.plans = {
            "default": identity_pb.Plan(
                name="default", priority=identity_pb.PRIORITY_NORMAL, create_time=NOW, update_time=NOW
            )
        }
        self.users: dict[str, identity_pb.User] = {}
        self.persons: dict[tuple[str, str], list[str]] = {}
        """Ids of a person's users, by issuer and subject."""
        self.audit: list[identity_pb.AuditRecord] = []

    def CreateOrg(self, request: Any) -> Any:
        org = identity_pb.Org(
            id=next(self._ids),
            name=request.name,
            status=identity_pb.STATUS_ACTIVE,
            create_time=NOW,
            update_time=NOW,
            limits=request.limits,
            plan=request.plan or "default",
            reserved_capacity=request.reserved_capacity,
            allowed_regions=request.allowed_regions,
            monthly_cap_picodollars=request.monthly_cap_picodollars,
        )
        self.orgs[org.id] = org
        return identity_pb.CreateOrgResponse(org=org)

    def GetOrg(self, request: Any) -> Any:
        return identity_pb.GetOrgResponse(org=_known(self.orgs, request.id))

    def ListOrgs(self, request: Any) -> Any:
        orgs = list(self.orgs.values())
        start = int(request.page_token or 0)
        more = str(start + request.page_size) if len(orgs) > start + request.page_size else ""
        return identity_pb.ListOrgsResponse(orgs=orgs[start : start + request.page_size], next_page_token=more)

    def UpdateOrg(self, request: Any) -> Any:
        org = _known(self.orgs, request.id)
        _patch(org, request, "name", "status", "plan", "monthly_cap_picodollars")
        if request.HasField("limits"):
            org.limits.CopyFrom(request.limits)
        if request.HasField("reserved_capacity"):
            del org.reserved_capacity[:]
            org.reserved_capacity.extend(request.reserved_capacity.reserved)
        org.status_reason = request.status_reason
        return identity_pb.UpdateOrgResponse(org=org)

    def CreateEnvironment(self, request: Any) -> Any:
        _known(self.orgs, request.org_id)
        environment = identity_pb.Environment(
            id=next(self._ids),
            org_id=request.org_id,
            name=request.name,
            status=identity_pb.STATUS_ACTIVE,
            region=request.region,
            allowed_models=request.allowed_models,
            create_time=NOW,
            update_time=NOW,
            limits=request.limits,
            max_prompt_tokens=request.max_prompt_tokens,
            max_output_tokens=request.max_output_tokens,
            fallback_regions=request.fallback_regions,
            residency_pinned=request.residency_pinned,
            monthly_cap_picodollars=request.monthly_cap_picodollars,
        )
        self.environments[environment.id] = environment
        return identity_pb.CreateEnvironmentResponse(environment=environment)

    def GetEnvironment(self, request: Any) -> Any:
        return identity_pb.GetEnvironmentResponse(environment=_known(self.environments, request.id))

    def ListEnvironments(self, request: Any) -> Any:
        _known(self.orgs, request.org_id)
        found = [item for item in self.environments.values() if item.org_id == request.org_id]
        return identity_pb.ListEnvironmentsResponse(environments=found)

    def UpdateEnvironment(self, request: Any) -> Any:
        environment = _known(self.environments, request.id)
        _patch(environment, request, "name", "status", "region", "max_output_tokens", "monthly_cap_picodollars")
        if request.HasField("limits"):
            environment.limits.CopyFrom(request.limits)
        if request.HasField("allowed_models"):
            environment.allowed_models[:] = request.allowed_models.models
        return identity_pb.UpdateEnvironmentResponse(environment=environment)

    def CreateApiKey(self, request: Any) -> Any:
        environment = _known(self.environments, request.environment_id)
        key = identity_pb.ApiKey(
            id=next(self._ids),
            org_id=environment.org_id,
            environment_id=environment.id,
            name=request.name,
            kind=request.kind,
            status=identity_pb.STATUS_ACTIVE,
            hint="clsk_live_…0001",
            allowed_models=request.allowed_models,
            create_time=NOW,
            limits=request.limits,
            allowed_regions=request.allowed_regions,
            allowed_cidrs=request.allowed_cidrs,
            monthly_cap_picodollars=request.monthly_cap_picodollars,
        )
        if request.HasField("expire_time"):
            key.expire_time.CopyFrom(request.expire_time)
        self.keys[key.id] = key
        return identity_pb.CreateApiKeyResponse(api_key=key, secret="clsk_live_" + "0" * 32)

    def GetApiKey(self, request: Any) -> Any:
        return identity_pb.GetApiKeyResponse(api_key=_known(self.keys, request.id))

    def ListApiKeys(self, request: Any) -> Any:
        found = [key for key in self.keys.values() if key.environment_id == request.environment_id]
        return identity_pb.ListApiKeysResponse(api_keys=found)

    def UpdateApiKey(self, request: Any) -> Any:
        key = _known(self.keys, request.id)
        if key.status == identity_pb.STATUS_REVOKED:
            raise CodedError(ErrorCode.CONFLICT, "The key is revoked.")
        _patch(key, request, "name", "status", "monthly_cap_picodollars")
        if request.HasField("limits"):
            key.limits.CopyFrom(request.limits)
        if request.HasField("allowed_cidrs"):
            key.allowed_cidrs[:] = request.allowed_cidrs.cidrs
        if request.HasField("allowed_models"):
            key.allowed_models[:] = request.allowed_models.models
        return identity_pb.UpdateApiKeyResponse(api_key=key)

    def RevokeApiKey(self, request: Any) -> Any:
        key = _known(self.keys, request.id)
        key.status = identity_pb.STATUS_REVOKED
        key.revoke_time.CopyFrom(NOW)
        return identity_pb.RevokeApiKeyResponse(api_key=key)

    def RotateApiKey(self, request: Any) -> Any:
        old = _known(self.keys, request.id)
        new = identity_pb.ApiKey()
        new.CopyFrom(old)
        new.id = next(self._ids)
        self.keys[new.id] = new
        old.expire_time.FromSeconds(NOW.seconds + request.overlap_s)
        return identity_pb.RotateApiKeyResponse(api_key=new, secret="clsk_live_" + "1" * 32, old_api_key=old)

    def CreatePlan(self, request: Any) -> Any:
        plan = request.plan
        if plan.name in self.plans:
            raise CodedError(ErrorCode.ALREADY_EXISTS, "There is a plan of that name.")
        plan.create_time.CopyFrom(NOW)
        plan.update_time.CopyFrom(NOW)
        self.plans[plan.name] = plan
        return identity_pb.CreatePlanResponse(plan=plan)

    def GetPlan(self, request: Any) -> Any:
        return identity_pb.GetPlanResponse(plan=_known(self.plans, request.name))

    def ListPlans(self, request: Any) -> Any:
        return identity_pb.ListPlansResponse(plans=self.plans.values())

    def UpdatePlan(self, request: Any) -> Any:
        plan = _known(self.plans, request.name)
        _patch(plan, request, "description", "priority", "billing_mode", "overage_policy", "max_output_tokens")
        for field in ("key_limits", "environment_limits", "org_limits"):
            if request.HasField(field):
                getattr(plan, field).CopyFrom(getattr(request, field))
        return identity_pb.UpdatePlanResponse(plan=plan)

    def CreateUser(self, request: Any) -> Any:
        if request.org_id:
            _known(self.orgs, request.org_id)
        return identity_pb.CreateUserResponse(user=self.let_in(request))

    def let_in(self, request: Any) -> Any:
        """A new user, made without a call."""
        user = identity_pb.User(
            id=next(self._ids),
            org_id=request.org_id,
            email=request.email.lower(),
            name=request.name,
            role=request.role,
            status=identity_pb.STATUS_ACTIVE,
            create_time=NOW,
            update_time=NOW,
        )
        self.users[user.id] = user
        return user

    def GetUser(self, request: Any) -> Any:
        return identity_pb.GetUserResponse(user=_known(self.users, request.id))

    def ListUsers(self, request: Any) -> Any:
        found = [user for user in self.users.values() if user.org_id == request.org_id]
        return identity_pb.ListUsersResponse(users=found)

    def UpdateUser(self, request: Any) -> Any:
        user = _known(self.users, request.id)
        _patch(user, request, "name", "role", "status")
        return identity_pb.UpdateUserResponse(user=user)

    def DeleteUser(self, request: Any) -> Any:
        return identity_pb.DeleteUserResponse(user=_known(self.users, request.id) and self.users.pop(request.id))

    def ResolveUser(self, request: Any) -> Any:
        ids = self.persons.get((request.issuer, request.subject), [])
        found = [user for user in self.users.values() if user.id in ids or user.email == request.confirmed_email]
        if not found:
            raise CodedError(ErrorCode.PERMISSION_DENIED, "Nobody has let you in here.")
        return identity_pb.ResolveUserResponse(users=found)

    def RecordAudit(self, request: Any) -> Any:
        seq = len(self.audit) + 1
        record = identity_pb.AuditRecord(
            seq=seq,
            time=NOW,
            actor=request.actor,
            action=request.action,
            outcome=request.outcome,
            org_id=request.org_id,
            object_kind=request.object_kind,
            object_id=request.object_id,
            before_json=request.before_json,
            after_json=request.after_json,
            reason=request.reason,
            previous_hash=bytes(32),
            hash=bytes(32),
        )
        self.audit.append(record)
        return identity_pb.RecordAuditResponse(seq=seq)

    def ListAuditRecords(self, request: Any) -> Any:
        return identity_pb.ListAuditRecordsResponse(records=reversed(self.audit))

    def VerifyAuditLog(self, request: Any) -> Any:
        count = len(self.audit)
        return identity_pb.VerifyAuditLogResponse(intact=True, records=count, head_seq=count, head_hash=bytes(32))


class FakeRegistry(FakeStub):
    """A catalogue and one node."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, registry_pb.Model] = {}
        self.node = registry_pb.Node(
            id=str(UUID(int=99)),
            status=registry_pb.NODE_STATUS_ACTIVE,
            facts=registry_pb.NodeFacts(
                address="10.0.0.7:9000", region="us-east", models=["llama-3-8b"], engine="vllm"
            ),
            load=registry_pb.NodeLoad(running=3, kv_cache_usage=0.25, current_tokens_per_sec=41.5),
            last_heartbeat_time=NOW,
            create_time=NOW,
        )

    def CreateModel(self, request: Any) -> Any:
        if request.model.name in self.models:
            raise CodedError(ErrorCode.ALREADY_EXISTS, "The catalogue has a model of that name.", param="name")
        request.model.create_time.CopyFrom(NOW)
        self.models[request.model.name] = request.model
        return registry_pb.CreateModelResponse(model=request.model)

    def ReplaceDeployments(self, request: Any) -> Any:
        model = _known(self.models, request.model)
        del model.deployments[:]
        model.deployments.extend(request.deployments)
        return registry_pb.ReplaceDeploymentsResponse(model=model)

    def ListModels(self, request: Any) -> Any:
        return registry_pb.ListModelsResponse(models=self.models.values())

    def ListNodes(self, request: Any) -> Any:
        return registry_pb.ListNodesResponse(nodes=[self.node])

    def DrainNode(self, request: Any) -> Any:
        node = _known({self.node.id: self.node}, request.node_id)
        node.status = registry_pb.NODE_STATUS_DRAINING
        return registry_pb.DrainNodeResponse(node=node)

    def ListNodeLogs(self, request: Any) -> Any:
        _known({self.node.id: self.node}, request.node_id)
        line = registry_pb.NodeLogLine(
            source=registry_pb.LOG_SOURCE_ENGINE, level=registry_pb.LOG_LEVEL_ERROR, time=NOW, text="out of memory"
        )
        new = request.cursor != "7-0" and line.level >= request.least_level
        return registry_pb.ListNodeLogsResponse(lines=[line] if new else [], cursor="7-0", dropped=3)

    def CreateJoinToken(self, request: Any) -> Any:
        return registry_pb.CreateJoinTokenResponse(join_token="cljt_once", expire_time=NOW)


class FakeAccountant(FakeStub):
    """Rows are what a test puts there."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = [
            accountant_pb.UsageRow(
                org_id="o", model="llama-3-8b", time=NOW, requests=2, prompt_tokens=10, completion_tokens=5,
                cost_picodollars="750000",
            )
        ]  # fmt: skip
        self.records = [
            accountant_pb.StoredUsageRecord(
                record=accountant_pb.UsageRecord(
                    context=accountant_pb.RequestContext(
                        request_id="r", org_id="o", model="llama-3-8b", start_time_unix_us=1_795_000_000_000_001
                    ),
                    usage=common_pb.TokenUsage(
                        prompt_tokens=10, completion_tokens=5, source=common_pb.COUNT_SOURCE_ENGINE_FINAL
                    ),
                    outcome=common_pb.OUTCOME_SUCCEEDED,
                    http_status=200,
                ),
                cost_picodollars="750000",
                record_time=NOW,
            )
        ]

    def QueryUsage(self, request: Any) -> Any:
        return accountant_pb.QueryUsageResponse(rows=self.rows)

    def ListUsageRecords(self, request: Any) -> Any:
        return accountant_pb.ListUsageRecordsResponse(records=self.records)

    def CorrectRecord(self, request: Any) -> Any:
        standing = accountant_pb.StoredUsageRecord()
        standing.CopyFrom(self.records[0])
        if standing.revision != request.expected_revision:
            raise CodedError(ErrorCode.CONFLICT, "Another revision stands.")
        standing.revision += 2
        if request.HasField("usage"):
            standing.record.usage.CopyFrom(request.usage)
        return accountant_pb.CorrectRecordResponse(record=standing)

    def CompareUsage(self, request: Any) -> Any:
        totals = accountant_pb.UsageTotals(requests=2, prompt_tokens=10, completion_tokens=5, cost_picodollars="750000")
        return accountant_pb.CompareUsageResponse(records=totals, rollups=totals, last_sequence=2, rolled_up_sequence=2)


class Neighbours:
    """All three, and the app over them."""

    def __init__(self, token: str = TOKEN) -> None:
        self.identity = FakeIdentity()
        self.registry = FakeRegistry()
        self.accountant = FakeAccountant()
        self.budgets = FakeBudgets()
        self.upgrades = FakeUpgrades()
        self.model_store = FakeModelStore()
        self.orchestrator = FakeOrchestrator()
        self.deployments = FakeDeployments()
        self.notifications = FakeNotifications()
        self.billing = FakeBilling()
        self.deps = AdminDeps(
            identity=lambda: self.identity,  # type: ignore[arg-type,return-value]  # its methods are made at run time
            registry=lambda: self.registry,  # type: ignore[arg-type,return-value]
            accountant=lambda: self.accountant,  # type: ignore[arg-type,return-value]
            orchestrator=lambda: self.orchestrator,  # type: ignore[arg-type,return-value]
            deployments=lambda: self.deployments,  # type: ignore[arg-type,return-value]
            notifications=lambda: self.notifications,  # type: ignore[arg-type,return-value]
            billing=lambda: self.billing,  # type: ignore[arg-type,return-value]
            budgets=lambda: self.budgets,  # type: ignore[arg-type,return-value]
            upgrades=lambda: self.upgrades,  # type: ignore[arg-type,return-value]
            model_store=lambda: self.model_store,  # type: ignore[arg-type,return-value]
            admin_token=Secret(token),
            timeout_s=3.0,
        )

    def app(self, deps: AdminDeps | None = None) -> web.Application:
        """The admin API and the document, with as much of the gateway's middleware as they need."""
        app = web.Application(middlewares=[_middleware])
        app.add_routes([*make_admin_routes(deps or self.deps), *make_openapi_routes("0.1.0")])
        return app


@web.middleware
async def _middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    request[REQUEST_ID] = request[SHOWN_REQUEST_ID] = "test-request"
    try:
        return await handler(request)
    except CodedError as error:
        return error_response(request, error)


def _known(items: dict[str, Any], id_: str) -> Any:
    if id_ not in items:
        raise CodedError(ErrorCode.NOT_FOUND, "There is no such thing.")
    return items[id_]


def _patch(item: Any, request: Any, *fields: str) -> None:
    for field in fields:
        if request.HasField(field):
            setattr(item, field, getattr(request, field))

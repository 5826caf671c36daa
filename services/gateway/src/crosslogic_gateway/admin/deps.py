"""What the admin API needs of the world: the neighbours' stubs, as narrow as it uses them."""

from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from aiohttp import web

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic.orchestrator.v1 import orchestrator_pb2 as orchestrator_pb
from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_common.regions import RegionTable, default_regions
from crosslogic_common.settings import Secret
from crosslogic_gateway.idempotency.ports import AnswersOnce

if TYPE_CHECKING:
    from crosslogic_gateway.admin.billing_stub import BillingStub
    from crosslogic_gateway.admin.budget_stub import BudgetStub
    from crosslogic_gateway.admin.deployment_stub import DeploymentStub
    from crosslogic_gateway.admin.model_store_stub import ModelStoreStub
    from crosslogic_gateway.admin.notification_stub import NotificationStub
    from crosslogic_gateway.admin.upgrade_stub import UpgradeStub

Request_contra = TypeVar("Request_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)


class Rpc(Protocol[Request_contra, Response_co]):
    """One unary RPC of a stub."""

    def __call__(
        self,
        request: Request_contra,
        /,
        *,
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Awaitable[Response_co]:
        """Calls it; `timeout` in seconds. Raises grpc.aio.AioRpcError."""


class IdentityStub(Protocol):
    """crosslogic.identity.v1.IdentityService, as far as operators need it."""

    @property
    def CreateOrg(self) -> Rpc[identity_pb.CreateOrgRequest, identity_pb.CreateOrgResponse]: ...  # noqa: D102
    @property
    def GetOrg(self) -> Rpc[identity_pb.GetOrgRequest, identity_pb.GetOrgResponse]: ...  # noqa: D102
    @property
    def ListOrgs(self) -> Rpc[identity_pb.ListOrgsRequest, identity_pb.ListOrgsResponse]: ...  # noqa: D102
    @property
    def UpdateOrg(self) -> Rpc[identity_pb.UpdateOrgRequest, identity_pb.UpdateOrgResponse]: ...  # noqa: D102
    @property
    def CreateEnvironment(  # noqa: D102
        self,
    ) -> Rpc[identity_pb.CreateEnvironmentRequest, identity_pb.CreateEnvironmentResponse]: ...
    @property
    def GetEnvironment(self) -> Rpc[identity_pb.GetEnvironmentRequest, identity_pb.GetEnvironmentResponse]: ...  # noqa: D102
    @property
    def ListEnvironments(  # noqa: D102
        self,
    ) -> Rpc[identity_pb.ListEnvironmentsRequest, identity_pb.ListEnvironmentsResponse]: ...
    @property
    def UpdateEnvironment(  # noqa: D102
        self,
    ) -> Rpc[identity_pb.UpdateEnvironmentRequest, identity_pb.UpdateEnvironmentResponse]: ...
    @property
    def CreateApiKey(self) -> Rpc[identity_pb.CreateApiKeyRequest, identity_pb.CreateApiKeyResponse]: ...  # noqa: D102
    @property
    def GetApiKey(self) -> Rpc[identity_pb.GetApiKeyRequest, identity_pb.GetApiKeyResponse]: ...  # noqa: D102
    @property
    def ListApiKeys(self) -> Rpc[identity_pb.ListApiKeysRequest, identity_pb.ListApiKeysResponse]: ...  # noqa: D102
    @property
    def UpdateApiKey(self) -> Rpc[identity_pb.UpdateApiKeyRequest, identity_pb.UpdateApiKeyResponse]: ...  # noqa: D102
    @property
    def RevokeApiKey(self) -> Rpc[identity_pb.RevokeApiKeyRequest, identity_pb.RevokeApiKeyResponse]: ...  # noqa: D102
    @property
    def CreatePlan(self) -> Rpc[identity_pb.CreatePlanRequest, identity_pb.CreatePlanResponse]: ...  # noqa: D102
    @property
    def GetPlan(self) -> Rpc[identity_pb.GetPlanRequest, identity_pb.GetPlanResponse]: ...  # noqa: D102
    @property
    def ListPlans(self) -> Rpc[identity_pb.ListPlansRequest, identity_pb.ListPlansResponse]: ...  # noqa: D102
    @property
    def UpdatePlan(self) -> Rpc[identity_pb.UpdatePlanRequest, identity_pb.UpdatePlanResponse]: ...  # noqa: D102
    @property
    def CreateUser(self) -> Rpc[identity_pb.CreateUserRequest, identity_pb.CreateUserResponse]: ...  # noqa: D102
    @property
    def GetUser(self) -> Rpc[identity_pb.GetUserRequest, identity_pb.GetUserResponse]: ...  # noqa: D102
    @property
    def ListUsers(self) -> Rpc[identity_pb.ListUsersRequest, identity_pb.ListUsersResponse]: ...  # noqa: D102
    @property
    def UpdateUser(self) -> Rpc[identity_pb.UpdateUserRequest, identity_pb.UpdateUserResponse]: ...  # noqa: D102
    @property
    def DeleteUser(self) -> Rpc[identity_pb.DeleteUserRequest, identity_pb.DeleteUserResponse]: ...  # noqa: D102
    @property
    def ResolveUser(self) -> Rpc[identity_pb.ResolveUserRequest, identity_pb.ResolveUserResponse]: ...  # noqa: D102
    @property
    def RecordAudit(self) -> Rpc[identity_pb.RecordAuditRequest, identity_pb.RecordAuditResponse]: ...  # noqa: D102
    @property
    def ListAuditRecords(  # noqa: D102
        self,
    ) -> Rpc[identity_pb.ListAuditRecordsRequest, identity_pb.ListAuditRecordsResponse]: ...
    @property
    def VerifyAuditLog(  # noqa: D102
        self,
    ) -> Rpc[identity_pb.VerifyAuditLogRequest, identity_pb.VerifyAuditLogResponse]: ...
    @property
    def RotateApiKey(self) -> Rpc[identity_pb.RotateApiKeyRequest, identity_pb.RotateApiKeyResponse]: ...  # noqa: D102


class SignIn(Protocol):
    """Knows people who signed in with an OpenID provider."""

    async def person(self, request: web.Request, *, changes: bool) -> "Person | None":
        """Who sent the request. None: it shows nothing of the kind.

        Raises UNAUTHENTICATED for what is not valid; PERMISSION_DENIED for a cookie that another site made the browser
        send, where the request `changes` something.
        """


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody for whom an OpenID provider vouches."""

    issuer: str
    subject: str
    confirmed_email: str
    """Empty: the provider did not confirm one."""


class RegistryStub(Protocol):
    """crosslogic.registry.v1.RegistryService, as far as operators need it."""

    @property
    def CreateModel(self) -> Rpc[registry_pb.CreateModelRequest, registry_pb.CreateModelResponse]: ...  # noqa: D102
    @property
    def ReplaceDeployments(  # noqa: D102
        self,
    ) -> Rpc[registry_pb.ReplaceDeploymentsRequest, registry_pb.ReplaceDeploymentsResponse]: ...
    @property
    def ListModels(self) -> Rpc[registry_pb.ListModelsRequest, registry_pb.ListModelsResponse]: ...  # noqa: D102
    @property
    def ListNodes(self) -> Rpc[registry_pb.ListNodesRequest, registry_pb.ListNodesResponse]: ...  # noqa: D102
    @property
    def DrainNode(self) -> Rpc[registry_pb.DrainNodeRequest, registry_pb.DrainNodeResponse]: ...  # noqa: D102
    @property
    def ListNodeLogs(self) -> Rpc[registry_pb.ListNodeLogsRequest, registry_pb.ListNodeLogsResponse]: ...  # noqa: D102
    @property
    def CreateJoinToken(self) -> Rpc[registry_pb.CreateJoinTokenRequest, registry_pb.CreateJoinTokenResponse]: ...  # noqa: D102


class AccountantStub(Protocol):
    """crosslogic.accountant.v1.AccountantService, as far as operators need it."""

    @property
    def QueryUsage(self) -> Rpc[accountant_pb.QueryUsageRequest, accountant_pb.QueryUsageResponse]: ...  # noqa: D102
    @property
    def ListUsageRecords(  # noqa: D102
        self,
    ) -> Rpc[accountant_pb.ListUsageRecordsRequest, accountant_pb.ListUsageRecordsResponse]: ...
    @property
    def CorrectRecord(self) -> Rpc[accountant_pb.CorrectRecordRequest, accountant_pb.CorrectRecordResponse]: ...  # noqa: D102
    @property
    def CompareUsage(self) -> Rpc[accountant_pb.CompareUsageRequest, accountant_pb.CompareUsageResponse]: ...  # noqa: D102


class EventStream(Protocol[Request_contra, Response_co]):
    """One RPC of a stub whose answers come as a stream."""

    def __call__(
        self, request: Request_contra, /, *, metadata: tuple[tuple[str, str], ...] | None = None
    ) -> AsyncIterable[Response_co]:
        """Calls it. Reading raises grpc.aio.AioRpcError."""


class OrchestratorStub(Protocol):
    """crosslogic.orchestrator.v1.OrchestratorService."""

    @property
    def LaunchInstance(  # noqa: D102
        self,
    ) -> Rpc[orchestrator_pb.LaunchInstanceRequest, orchestrator_pb.LaunchInstanceResponse]: ...
    @property
    def TerminateInstance(  # noqa: D102
        self,
    ) -> Rpc[orchestrator_pb.TerminateInstanceRequest, orchestrator_pb.TerminateInstanceResponse]: ...
    @property
    def GetJob(self) -> Rpc[orchestrator_pb.GetJobRequest, orchestrator_pb.GetJobResponse]: ...  # noqa: D102
    @property
    def WatchJob(self) -> EventStream[orchestrator_pb.WatchJobRequest, orchestrator_pb.WatchJobResponse]: ...  # noqa: D102
    @property
    def ListInstances(  # noqa: D102
        self,
    ) -> Rpc[orchestrator_pb.ListInstancesRequest, orchestrator_pb.ListInstancesResponse]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDeps:
    """The neighbours and the operators' token.

    A stub is asked for anew for each call, so that it may follow a channel that is made again.
    """

    identity: Callable[[], IdentityStub]
    registry: Callable[[], RegistryStub]
    accountant: Callable[[], AccountantStub]
    orchestrator: Callable[[], OrchestratorStub] | None = None
    """None: machines are not launched from here."""
    deployments: "Callable[[], DeploymentStub] | None" = None
    """None: as for `orchestrator`."""
    notifications: "Callable[[], NotificationStub] | None" = None
    """None: as for `orchestrator`."""
    billing: "Callable[[], BillingStub] | None" = None
    """None: money is not looked at from here."""
    budgets: "Callable[[], BudgetStub] | None" = None
    """None: budgets are not kept from here."""
    upgrades: "Callable[[], UpgradeStub] | None" = None
    """None: models are not upgraded from here."""
    model_store: "Callable[[], ModelStoreStub] | None" = None
    """None: models are not registered from here."""
    admin_token: Secret = field(repr=False)
    """Empty: every request is refused."""
    regions: RegionTable = field(default_factory=default_regions)
    timeout_s: float = 10.0
    """Of one RPC."""
    client_address: Callable[[web.Request], str] = lambda request: request.remote or ""
    """The client's address, as the edge sees it."""
    sign_in: SignIn | None = None
    """Lets people in who signed in elsewhere. None: only the token opens."""
    idempotency: AnswersOnce | None = None
    """For requests with an `Idempotency-Key`. None: each is carried out."""

"""What the admin API needs of the world: the neighbours' stubs, as narrow as it uses them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_common.settings import Secret
from crosslogic_gateway.idempotency.ports import AnswersOnce

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
    def RotateApiKey(self) -> Rpc[identity_pb.RotateApiKeyRequest, identity_pb.RotateApiKeyResponse]: ...  # noqa: D102


class RegistryStub(Protocol):
    """crosslogic.registry.v1.RegistryService, as far as operators need it."""

    @property
    def CreateModel(self) -> Rpc[registry_pb.CreateModelRequest, registry_pb.CreateModelResponse]: ...  # noqa: D102
    @property
    def ListModels(self) -> Rpc[registry_pb.ListModelsRequest, registry_pb.ListModelsResponse]: ...  # noqa: D102
    @property
    def ListNodes(self) -> Rpc[registry_pb.ListNodesRequest, registry_pb.ListNodesResponse]: ...  # noqa: D102
    @property
    def DrainNode(self) -> Rpc[registry_pb.DrainNodeRequest, registry_pb.DrainNodeResponse]: ...  # noqa: D102
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminDeps:
    """The neighbours and the operators' token.

    A stub is asked for anew for each call, so that it may follow a channel that is made again.
    """

    identity: Callable[[], IdentityStub]
    registry: Callable[[], RegistryStub]
    accountant: Callable[[], AccountantStub]
    admin_token: Secret = field(repr=False)
    """Empty: every request is refused."""
    timeout_s: float = 10.0
    """Of one RPC."""
    idempotency: AnswersOnce | None = None
    """For requests with an `Idempotency-Key`. None: each is carried out."""

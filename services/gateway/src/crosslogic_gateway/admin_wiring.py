"""The admin API's neighbours, over this worker's channels."""

from typing import cast

from crosslogic.accountant.v1 import accountant_pb2_grpc as accountant_rpc
from crosslogic.identity.v1 import identity_pb2_grpc as identity_rpc
from crosslogic.registry.v1 import registry_pb2_grpc as registry_rpc
from crosslogic_common.tls import Channels
from crosslogic_gateway.admin import AdminDeps
from crosslogic_gateway.admin.deps import AccountantStub, IdentityStub, RegistryStub
from crosslogic_gateway.settings import GatewaySettings


def admin_deps(settings: GatewaySettings, channels: Channels) -> AdminDeps:
    """What the admin API needs. Stubs are made for each call, so that they follow a changed certificate."""
    return AdminDeps(
        identity=lambda: cast(
            "IdentityStub", identity_rpc.IdentityServiceStub(channels.service("identity", settings.identity_target))
        ),
        registry=lambda: cast(
            "RegistryStub", registry_rpc.RegistryServiceStub(channels.service("registry", settings.registry_target))
        ),
        accountant=lambda: cast(
            "AccountantStub",
            accountant_rpc.AccountantServiceStub(channels.service("accountant", settings.accountant_target)),
        ),
        admin_token=settings.admin_token,
    )

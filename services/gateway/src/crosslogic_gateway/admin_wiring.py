"""The admin API over this worker's channels."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import cast

from aiohttp import web

from crosslogic.accountant.v1 import accountant_pb2_grpc as accountant_rpc
from crosslogic.accountant.v1 import budgets_pb2_grpc as budgets_rpc
from crosslogic.billing.v1 import billing_pb2_grpc as billing_rpc
from crosslogic.identity.v1 import identity_pb2_grpc as identity_rpc
from crosslogic.orchestrator.v1 import deployments_pb2_grpc as deployments_rpc
from crosslogic.orchestrator.v1 import notifications_pb2_grpc as notifications_rpc
from crosslogic.orchestrator.v1 import orchestrator_pb2_grpc as orchestrator_rpc
from crosslogic.registry.v1 import model_store_pb2_grpc as model_store_rpc
from crosslogic.registry.v1 import registry_pb2_grpc as registry_rpc
from crosslogic.registry.v1 import upgrades_pb2_grpc as upgrades_rpc
from crosslogic_common.clock import Clock
from crosslogic_common.tls import Channels
from crosslogic_gateway.admin import AdminDeps, make_admin_routes
from crosslogic_gateway.admin.billing_stub import BillingStub
from crosslogic_gateway.admin.budget_stub import BudgetStub
from crosslogic_gateway.admin.deployment_stub import DeploymentStub
from crosslogic_gateway.admin.deps import AccountantStub, IdentityStub, OrchestratorStub, RegistryStub
from crosslogic_gateway.admin.model_store_stub import ModelStoreStub
from crosslogic_gateway.admin.notification_stub import NotificationStub
from crosslogic_gateway.admin.upgrade_stub import UpgradeStub
from crosslogic_gateway.idempotency.ports import AnswersOnce
from crosslogic_gateway.oidc.wiring import open_oidc
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
        orchestrator=_orchestrator(settings, channels) if settings.orchestrator_target else None,
        deployments=_deployments(settings, channels) if settings.orchestrator_target else None,
        notifications=_notifications(settings, channels) if settings.orchestrator_target else None,
        billing=_billing(settings, channels) if settings.billing_target else None,
        budgets=lambda: cast(
            "BudgetStub",
            budgets_rpc.BudgetServiceStub(channels.service("accountant", settings.accountant_target)),
        ),
        upgrades=lambda: cast(
            "UpgradeStub", upgrades_rpc.ModelUpgradeServiceStub(channels.service("registry", settings.registry_target))
        ),
        model_store=lambda: cast(
            "ModelStoreStub",
            model_store_rpc.ModelStoreServiceStub(channels.service("registry", settings.registry_target)),
        ),
        admin_token=settings.admin_token,
        regions=settings.regions,
    )


def _billing(settings: GatewaySettings, channels: Channels) -> Callable[[], BillingStub]:
    return lambda: cast(
        "BillingStub", billing_rpc.BillingServiceStub(channels.service("billing", settings.billing_target))
    )


def _orchestrator(settings: GatewaySettings, channels: Channels) -> Callable[[], OrchestratorStub]:
    return lambda: cast(
        "OrchestratorStub",
        orchestrator_rpc.OrchestratorServiceStub(channels.service("orchestrator", settings.orchestrator_target)),
    )


def _deployments(settings: GatewaySettings, channels: Channels) -> Callable[[], DeploymentStub]:
    return lambda: cast(
        "DeploymentStub",
        deployments_rpc.DeploymentServiceStub(channels.service("orchestrator", settings.orchestrator_target)),
    )


def _notifications(settings: GatewaySettings, channels: Channels) -> Callable[[], NotificationStub]:
    return lambda: cast(
        "NotificationStub",
        notifications_rpc.NotificationServiceStub(channels.service("orchestrator", settings.orchestrator_target)),
    )


@contextlib.asynccontextmanager
async def open_admin(
    settings: GatewaySettings,
    channels: Channels,
    *,
    clock: Clock,
    idempotency: AnswersOnce,
    client_address: Callable[[web.Request], str],
) -> AsyncIterator[list[web.RouteDef]]:
    """The admin API's routes, signing in included, for as long as the block lasts."""
    async with open_oidc(
        settings.oidc_providers,
        seal_key=settings.seal_key,
        clock=clock,
        public_url=settings.public_url,
        session_s=settings.admin_session_s,
    ) as oidc:
        deps = replace(
            admin_deps(settings, channels),
            idempotency=idempotency,
            client_address=client_address,
            sign_in=oidc.sign_in,
        )
        yield [*make_admin_routes(deps), *oidc.pages.routes()]

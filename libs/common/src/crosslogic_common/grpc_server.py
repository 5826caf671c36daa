"""How every service serves gRPC: mutual TLS, a rule for each RPC, one interceptor, a graceful end."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import ModuleType
from typing import Protocol, TypeVar

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry import trace

from crosslogic_common.interceptor import RpcInterceptor
from crosslogic_common.logs import get_logger
from crosslogic_common.metrics import Metrics
from crosslogic_common.settings import Settings, SettingsError
from crosslogic_common.tls import CHANNEL_OPTIONS, TlsFiles, server_credentials

SettingsOf = TypeVar("SettingsOf", bound=Settings)

CallerRules = Mapping[str, frozenset[str]]
"""Full method, for example `/crosslogic.identity.v1.IdentityService/GetOrg`, to who may call it: `service:gateway`,
`service:*`, `node`, `certificate` (any of ours) or `anonymous` (no certificate asked for)."""

ANY_CERTIFICATE = frozenset({"certificate"})
STANDARD_RULES: CallerRules = {
    "/grpc.health.v1.Health/Check": ANY_CERTIFICATE,
    "/grpc.health.v1.Health/Watch": ANY_CERTIFICATE,
    "/grpc.health.v1.Health/List": ANY_CERTIFICATE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANY_CERTIFICATE,
}


class StartError(Exception):
    """The process cannot start; the message says what to change."""


class Registrar(Protocol):
    """A generated `add_*Servicer_to_server` with its servicer bound."""

    def __call__(self, server: grpc.aio.Server, /) -> None:
        """Adds the servicer."""


class GrpcServer:
    """One listening gRPC server."""

    def __init__(
        self,
        *,
        listen: str,
        tls: TlsFiles,
        rules: CallerRules,
        metrics: Metrics,
        stopping: asyncio.Event,
        tracer: trace.Tracer | None = None,
        shutdown_grace_s: float = 20.0,
        client_certificates: bool = True,
    ) -> None:
        """Listens at `listen` (host:port; port 0 picks one) once served.

        `stopping` is set when the server begins to stop, so that long-lived streams end by themselves. An RPC that no
        rule names is refused; `serve` refuses to start if an added servicer has one. Without `client_certificates` only
        RPCs with the rule `anonymous` can be reached.
        """
        self._listen = listen
        self._tls = tls
        self._rules = {**rules, **(STANDARD_RULES if client_certificates else {})}
        self._client_certificates = client_certificates
        self._grace_s = shutdown_grace_s
        self._stopping = stopping
        self._services: dict[str, Registrar] = {}
        self._interceptor = RpcInterceptor(rules=self._rules, metrics=metrics, tracer=tracer)
        self._log = get_logger(__name__)
        self.port = 0
        """The port it listens on, once served."""

    def add(self, module: ModuleType, service_name: str, register: Registrar) -> None:
        """Adds a service of the generated module. Raises StartError when one of its RPCs has no rule."""
        missing = [name for name in method_names(module, service_name) if f"/{service_name}/{name}" not in self._rules]
        if missing:
            raise StartError(f"no caller rule for {service_name}: {', '.join(missing)}")
        self._services[service_name] = register

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serves for as long as the block lasts; then stops accepting, finishes what runs, and closes."""
        server = grpc.aio.server(
            interceptors=[self._interceptor],
            # Two servers must never share a port by accident: the second is told that it is taken.
            options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 5_000)],
        )
        for register in self._services.values():
            register(server)
        checks = health.aio.HealthServicer()
        if self._client_certificates:
            health_pb2_grpc.add_HealthServicer_to_server(checks, server)
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        try:
            self.port = server.add_secure_port(
                self._listen, server_credentials(self._tls, client_certificates=self._client_certificates)
            )
        except RuntimeError:
            raise StartError(f"cannot listen on {self._listen}: is the port taken?") from None
        await server.start()
        await self._set_health(checks, health_pb2.HealthCheckResponse.SERVING)
        self._log.info("serving", listen=f"{self._listen.rpartition(':')[0]}:{self.port}")
        try:
            yield
        finally:
            self._stopping.set()
            await self._set_health(checks, health_pb2.HealthCheckResponse.NOT_SERVING)
            await server.stop(self._grace_s)
            self._log.info("stopped serving", listen=self._listen)

    async def _set_health(
        self, checks: health.aio.HealthServicer, status: health_pb2.HealthCheckResponse.ServingStatus
    ) -> None:
        for name in ("", *self._services):
            await checks.set(name, status)


def method_names(module: ModuleType, service_name: str) -> list[str]:
    """The RPCs of a service, from its generated module."""
    service = module.DESCRIPTOR.services_by_name[service_name.rpartition(".")[2]]
    return [method.name for method in service.methods]


def run_service(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs a service until SIGTERM or SIGINT sets the event it is given; the process's exit code says how it went."""

    async def until_signalled() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    try:
        uvloop.run(until_signalled())
    except StartError as error:
        sys.exit(str(error))


def read_settings(cls: type[SettingsOf], environ: Mapping[str, str]) -> SettingsOf:
    """A service's settings, or the end of the process with every problem on a line of its own."""
    try:
        return cls.from_env(environ)
    except SettingsError as error:
        sys.exit(f"The settings are not complete:\n{error}")

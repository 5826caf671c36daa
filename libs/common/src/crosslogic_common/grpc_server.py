"""How every service serves gRPC: mutual TLS, a rule for each RPC, one interceptor, a graceful end."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from types import ModuleType
from typing import Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry import trace

from crosslogic_common.interceptor import RpcInterceptor
from crosslogic_common.logs import get_logger
from crosslogic_common.metrics import Metrics
from crosslogic_common.process import StartError, read_settings, run_service
from crosslogic_common.tls import CHANNEL_OPTIONS, TlsFiles, server_credentials

__all__ = [
    "ANY_CERTIFICATE",
    "STANDARD_RULES",
    "CallerRules",
    "GrpcServer",
    "Registrar",
    "StartError",
    "method_names",
    "read_settings",
    "run_service",
]

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
_ANONYMOUS = "anonymous"
_RULE_WORD = re.compile(r"service:(?:[a-z][a-z_]*|\*)|node|certificate|anonymous")
# Just before gRPC cuts what still runs, so that the log can name it.
_LOOK_BEFORE_CUT_S = 0.05

_MAX_RECEIVED = "grpc.max_receive_message_length"
# Whoever has no certificate yet sends one small message and goes.
_STRANGERS_OPTIONS = {
    _MAX_RECEIVED: 64 * 1024,
    "grpc.max_concurrent_streams": 4,
    "grpc.max_connection_age_ms": 60_000,
    "grpc.max_connection_age_grace_ms": 30_000,
}


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
        max_request_bytes: int | None = None,
    ) -> None:
        """Listens at `listen` (host:port; port 0 picks one) once served.

        `stopping` is set when the server begins to stop, so that long-lived streams end by themselves. An RPC that no
        rule names is refused. Without `client_certificates` no certificate is asked for, and every RPC's rule must be
        `anonymous` and nothing else; with them no rule may be. A message of more than `max_request_bytes` ends its RPC
        before it is read whole (None: 80 MiB, or 64 KiB where no certificate is asked for).
        """
        self._listen = listen
        self._tls = tls
        self._rules = {**rules, **(STANDARD_RULES if client_certificates else {})}
        self._client_certificates = client_certificates
        self._options = _options(client_certificates=client_certificates, max_request_bytes=max_request_bytes)
        self._grace_s = shutdown_grace_s
        self._stopping = stopping
        self._services: dict[str, Registrar] = {}
        self._metrics = metrics
        self._interceptor = RpcInterceptor(
            rules=self._rules,
            metrics=metrics,
            tracer=tracer,
            stopping=stopping,
            ended_by_stopping=frozenset(STANDARD_RULES),
        )
        self._log = get_logger(__name__)
        self.port = 0
        """The port it listens on, once served."""

    def add(self, module: ModuleType, service_name: str, register: Registrar) -> None:
        """Adds a service of the generated module. Raises StartError when an RPC has no rule, or one of no meaning."""
        for name in method_names(module, service_name):
            self._check_rule(f"/{service_name}/{name}")
        self._services[service_name] = register

    def _check_rule(self, method: str) -> None:
        rule = self._rules.get(method)
        if not rule:
            raise StartError(f"no caller rule for {method}")
        unknown = sorted(word for word in rule if not _RULE_WORD.fullmatch(word))
        if unknown:
            raise StartError(f"the caller rule for {method} has unknown words: {', '.join(unknown)}")
        if self._client_certificates and _ANONYMOUS in rule:
            raise StartError(f"{method} is for anonymous callers, but this server asks for certificates")
        if not self._client_certificates and rule != {_ANONYMOUS}:
            raise StartError(f"{method} wants a certificate, but this server asks for none")

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serves for as long as the block lasts; then stops accepting, finishes what runs, and closes.

        Raises StartError when the port is taken or the TLS files do not fit together.
        """
        server = grpc.aio.server(interceptors=[self._interceptor], options=self._options)
        for register in self._services.values():
            register(server)
        checks = health.aio.HealthServicer()
        if self._client_certificates:
            health_pb2_grpc.add_HealthServicer_to_server(checks, server)
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self.port = self._bind(server)
        await server.start()
        for name in ("", *self._services):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._log.info("serving", listen=f"{self._listen.rpartition(':')[0]}:{self.port}")
        try:
            async with self._metrics.loop_watched():
                self._metrics.serving = True
                yield
        finally:
            self._metrics.serving = False
            await checks.enter_graceful_shutdown()
            self._stopping.set()
            await self._stop(server)

    def _bind(self, server: grpc.aio.Server) -> int:
        try:
            problem = self._tls.read().problem()
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}"
        if problem:
            raise StartError(f"the TLS files cannot be used: {problem} ({self._tls.cert_file}, {self._tls.key_file})")
        credentials = server_credentials(self._tls, client_certificates=self._client_certificates)
        try:
            return server.add_secure_port(self._listen, credentials)
        except RuntimeError:
            raise StartError(f"cannot listen on {self._listen}: is the port taken?") from None

    async def _stop(self, server: grpc.aio.Server) -> None:
        ending = asyncio.create_task(server.stop(self._grace_s))
        await asyncio.wait((ending,), timeout=max(0.0, self._grace_s - _LOOK_BEFORE_CUT_S))
        if not ending.done():
            cut = self._interceptor.running()
            if cut:
                self._log.warning("cutting what outlived the grace", grace_s=self._grace_s, rpcs=cut)
        await ending
        self._log.info("stopped serving", listen=self._listen)


def _options(*, client_certificates: bool, max_request_bytes: int | None) -> list[tuple[str, int]]:
    options = {
        **dict(CHANNEL_OPTIONS),
        # Two servers must never share a port by accident: the second is told that it is taken.
        "grpc.so_reuseport": 0,
        "grpc.http2.min_ping_interval_without_data_ms": 5_000,
        **({} if client_certificates else _STRANGERS_OPTIONS),
    }
    if max_request_bytes is not None:
        options[_MAX_RECEIVED] = max_request_bytes
    return list(options.items())


def method_names(module: ModuleType, service_name: str) -> list[str]:
    """The RPCs of a service, from its generated module."""
    service = module.DESCRIPTOR.services_by_name[service_name.rpartition(".")[2]]
    return [method.name for method in service.methods]

"""The suite's gRPC side, called with the operator's certificate."""

from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crosslogic.orchestrator.v1 import deployments_pb2_grpc, orchestrator_pb2_grpc
from crosslogic.registry.v1 import registry_pb2, registry_pb2_grpc
from crosslogic_common.tls import TlsFiles, service_dns_name

_CALL_TIMEOUT_S = 5.0


class OperatorClient:
    """Asks the services how they are, the registry for tokens and nodes, the orchestrator for machines."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._channels: dict[tuple[str, str], grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            channel.close()

    def healthy(self, service: str, target: str) -> bool:
        """Whether the service at `target` (host:port) says that it serves, within a second."""
        stub = health_pb2_grpc.HealthStub(self._channel(service, target))
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def join_token(self, target: str, *, ttl_s: int = 600) -> str:
        """A single-use join token from the registry at `target`."""
        stub = registry_pb2_grpc.RegistryServiceStub(self._channel("registry", target))
        return stub.CreateJoinToken(
            registry_pb2.CreateJoinTokenRequest(ttl_s=ttl_s), timeout=_CALL_TIMEOUT_S
        ).join_token

    def nodes(self, target: str) -> list[registry_pb2.Node]:
        """The fleet, as the registry at `target` knows it. At most 1,000."""
        stub = registry_pb2_grpc.RegistryServiceStub(self._channel("registry", target))
        return list(stub.ListNodes(registry_pb2.ListNodesRequest(page_size=1000), timeout=_CALL_TIMEOUT_S).nodes)

    def deployments(self, target: str) -> deployments_pb2_grpc.DeploymentServiceStub:
        """The deployments of the orchestrator at `target`."""
        return deployments_pb2_grpc.DeploymentServiceStub(self._channel("orchestrator", target))

    def machines(self, target: str) -> orchestrator_pb2_grpc.OrchestratorServiceStub:
        """The machines of the orchestrator at `target`."""
        return orchestrator_pb2_grpc.OrchestratorServiceStub(self._channel("orchestrator", target))

    def _channel(self, service: str, target: str) -> grpc.Channel:
        key = (service, target)
        if key not in self._channels:
            material = self._files.read()
            self._channels[key] = grpc.secure_channel(
                target,
                grpc.ssl_channel_credentials(material.ca, material.key, material.cert_chain),
                options=[
                    ("grpc.ssl_target_name_override", service_dns_name(service)),
                    ("grpc.initial_reconnect_backoff_ms", 50),
                    ("grpc.min_reconnect_backoff_ms", 50),
                    ("grpc.max_reconnect_backoff_ms", 200),
                    ("grpc.enable_http_proxy", 0),
                ],
            )
        return self._channels[key]

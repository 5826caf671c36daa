"""One bare call to any RPC, with any certificate or none."""

from types import TracebackType
from typing import Self

import grpc

from crosslogic_common.tls import TlsFiles

TIMEOUT_S = 5.0


class Caller:
    """Calls with one identity; `files` None: no certificate of its own, only trust in `ca_file`'s servers."""

    def __init__(self, files: TlsFiles | None, *, ca: bytes = b"") -> None:
        self._files = files
        self._ca = ca
        self._channels: dict[tuple[str, str], grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            channel.close()

    def status(self, target: str, dns_name: str, method: str, *, timeout_s: float = 20.0) -> grpc.StatusCode:
        """How a call with an empty message ends; DEADLINE_EXCEEDED for a stream that goes on, OK also for its first
        answer."""
        call = self._channel(target, dns_name).stream_stream(
            method, request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw
        )
        answers = call(iter([b""]), timeout=timeout_s)
        try:
            for _ in answers:
                answers.cancel()
                break
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK

    def details(self, target: str, dns_name: str, method: str) -> str:
        """What a refused call is told."""
        call = self._channel(target, dns_name).unary_unary(
            method, request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw
        )
        try:
            call(b"", timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.details())
        return ""

    def _channel(self, target: str, dns_name: str) -> grpc.Channel:
        key = (target, dns_name)
        if key not in self._channels:
            if self._files is None:
                credentials = grpc.ssl_channel_credentials(self._ca)
            else:
                material = self._files.read()
                credentials = grpc.ssl_channel_credentials(self._ca or material.ca, material.key, material.cert_chain)
            self._channels[key] = grpc.secure_channel(
                target,
                credentials,
                options=[
                    ("grpc.ssl_target_name_override", dns_name),
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.enable_http_proxy", 0),
                ],
            )
        return self._channels[key]

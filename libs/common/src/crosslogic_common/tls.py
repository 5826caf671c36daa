"""Identity on the wire: mutual TLS, certificates re-read when their files change, peers known by SPIFFE id."""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
import grpc.aio

from crosslogic_common.errors import CodedError, ErrorCode

TRUST_DOMAIN = "crosslogic"
SHARED_ORG = "shared"
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 80 * 1024 * 1024),
    ("grpc.max_send_message_length", 80 * 1024 * 1024),
    # A peer that hangs without closing its socket is found out in 15 s; a dead one tells by itself.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The batched streams reconnect by themselves; the channel must not hold them back for its own two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Each link keeps its own connection, so that one node's credentials are never reused for another.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_SPIFFE = re.compile(
    r"spiffe://crosslogic/(?:service/(?P<service>[a-z][a-z_]{0,62})"
    r"|org/(?P<org>[0-9a-f-]{36}|shared)/node/(?P<node>[0-9a-f-]{36}))",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where a process's identity lies, PEM."""

    cert_file: Path
    key_file: Path
    ca_file: Path

    def read(self) -> "TlsMaterial":
        """Their contents now."""
        return TlsMaterial(self.cert_file.read_bytes(), self.key_file.read_bytes(), self.ca_file.read_bytes())

    def version(self) -> tuple[tuple[int, int, int], ...]:
        """Something that differs once a file was replaced or rewritten."""
        stats = [path.stat() for path in (self.cert_file, self.key_file, self.ca_file)]
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """A certificate chain, its key and the certificates to trust, PEM."""

    cert_chain: bytes
    key: bytes
    ca: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate names."""

    kind: Literal["service", "node"]
    name: str
    """The service's name or the node's id."""
    org_id: str = ""
    """Of a node: the only organisation it serves. Empty: any."""


def service_spiffe_id(name: str) -> str:
    """The SPIFFE id of a service."""
    return f"spiffe://{TRUST_DOMAIN}/service/{name}"


def node_spiffe_id(node_id: str, org_id: str) -> str:
    """The SPIFFE id of a node."""
    return f"spiffe://{TRUST_DOMAIN}/org/{org_id or SHARED_ORG}/node/{node_id}"


def service_dns_name(name: str) -> str:
    """The name that a service's certificate must carry, whatever address it is dialled at."""
    return f"{name.replace('_', '-')}.service.{TRUST_DOMAIN}.internal"


def node_dns_name(node_id: str) -> str:
    """The name that a node's certificate must carry. No service has such a name: no node can pose as one."""
    return f"{node_id}.node.{TRUST_DOMAIN}.internal"


def parse_spiffe(spiffe_id: str) -> Identity | None:
    """The identity in a SPIFFE id of ours, or None."""
    match = _SPIFFE.fullmatch(spiffe_id)
    if match is None:
        return None
    if match["service"]:
        return Identity("service", match["service"])
    return Identity("node", match["node"], "" if match["org"] == SHARED_ORG else match["org"])


def peer_identity(context: grpc.aio.ServicerContext) -> Identity | None:
    """Who called, from the certificate's URI name and nothing else. None: no certificate, or none of ours."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    identities = [parse_spiffe(name.decode()) for name in names if name.startswith(b"spiffe://")]
    return identities[0] if len(identities) == 1 else None


def server_credentials(files: TlsFiles, *, client_certificates: bool = True) -> grpc.ServerCredentials:
    """Credentials of a server. The files are looked at on each handshake and read again when they changed."""
    current = files.version()

    def configuration() -> grpc.ServerCertificateConfiguration:
        material = files.read()
        return grpc.ssl_server_certificate_configuration(
            [(material.key, material.cert_chain)],
            root_certificates=material.ca if client_certificates else None,
        )

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        # A file that is being replaced, or a key that does not fit yet: the old identity serves on.
        with contextlib.suppress(OSError, ValueError):
            now = files.version()
            if now != current:
                fresh = configuration()
                current = now
                return fresh
        return None

    return grpc.dynamic_ssl_server_credentials(
        configuration(), changed, require_client_authentication=client_certificates
    )


class Channels:
    """Client channels that check their server's name and follow changes of our own certificate."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._channels: dict[tuple[str, str], tuple[grpc.aio.Channel, tuple[tuple[int, int, int], ...]]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def service(self, name: str, target: str) -> grpc.aio.Channel:
        """The channel to a service at `target` (host:port). Ask anew for each call or stream."""
        return self._channel(service_dns_name(name), target)

    def node(self, node_id: str, target: str) -> grpc.aio.Channel:
        """The channel to a node's agent at `target` (host:port). Ask anew for each call or stream."""
        return self._channel(node_dns_name(node_id), target)

    async def forget_node(self, node_id: str, target: str) -> None:
        """Closes the channel to a node that is no longer used."""
        known = self._channels.pop((node_dns_name(node_id), target), None)
        if known is not None:
            await known[0].close(None)

    async def close(self) -> None:
        """Closes all channels; calls still running on them are cut."""
        channels, self._channels = self._channels, {}
        await asyncio.gather(*(channel.close(None) for channel, _ in channels.values()))
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _channel(self, dns_name: str, target: str) -> grpc.aio.Channel:
        key = (dns_name, target)
        known = self._channels.get(key)
        version = known[1] if known is not None else None
        with contextlib.suppress(OSError):
            version = self._files.version()
        if known is not None and known[1] == version:
            return known[0]
        if version is None:
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"TLS files cannot be read: {self._files}")
        channel = open_channel(target, self._files.read(), dns_name)
        self._channels[key] = (channel, version)
        if known is not None:
            # Calls on the old channel finish; new ones use the new certificate.
            task = asyncio.create_task(known[0].close(60.0))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return channel


def open_channel(target: str, material: TlsMaterial, dns_name: str) -> grpc.aio.Channel:
    """A channel that presents `material` and accepts only a server with `dns_name` in its certificate."""
    credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.cert_chain)
    options: Sequence[tuple[str, int | str]] = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", dns_name))
    return grpc.aio.secure_channel(target, credentials, options=options)


def open_anonymous_channel(target: str, ca: bytes, dns_name: str) -> grpc.aio.Channel:
    """A channel without a certificate of our own, for joining."""
    options: Sequence[tuple[str, int | str]] = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", dns_name))
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca), options=options)

"""Identity on the wire: mutual TLS, certificates re-read when their files change, peers known by SPIFFE id."""

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

# Quoted: generic in the stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Version: TypeAlias = tuple[tuple[int, int, int], ...]

TRUST_DOMAIN = "crosslogic"
SHARED_ORG = "shared"
TLS13_ENVIRONMENT: Mapping[str, str] = MappingProxyType({"GRPC_SSL_CIPHER_SUITES": "ECDHE-PSK-CHACHA20-POLY1305"})
"""Set for a process before it starts, this refuses TLS 1.2 in the handshake.

gRPC's Python API has no lowest TLS version (grpc/grpc issue 37305). The variable lists the ciphers of TLS 1.2 only, and
is read when gRPC is imported; the one named needs a pre-shared key, which no side has, so that only TLS 1.3 can be
agreed. It need not be set for a server to be safe: the interceptor refuses every RPC that came over anything else.
"""
MAX_CHANNELS = 4_096
"""A worker talks to a few services and to the nodes it was sent to; those used least are closed first."""
_RETIRED_CHANNEL_S = 3_600.0
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 80 * 1024 * 1024),
    ("grpc.max_send_message_length", 80 * 1024 * 1024),
    # A peer that hangs without closing its socket is found out in 15 s; a dead one tells by itself.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Pings that gRPC sends for its own ends have a limit of their own, a minute; a keepalive ping waits behind them.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The batched streams reconnect by themselves; the channel must not hold them back for its own two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This one is how long an attempt to connect may take, not a wait between two: three round trips to another
    # continent, or a place in the queue of a server that all its clients come back to at once.
    ("grpc.min_reconnect_backoff_ms", 5_000),
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

    def version(self) -> Version:
        """Something that differs once a file was replaced or rewritten."""
        stats = [path.stat() for path in (self.cert_file, self.key_file, self.ca_file)]
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """A certificate chain, its key and the certificates to trust, PEM."""

    cert_chain: bytes
    key: bytes
    ca: bytes

    def problem(self) -> str:
        """Why these cannot be used together, in words without secrets. Empty: they can."""
        try:
            certificate = x509.load_pem_x509_certificates(self.cert_chain)[0]
            x509.load_pem_x509_certificates(self.ca)
        except ValueError:
            return "a certificate is not PEM"
        try:
            key = load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError):
            return "the key is not an unencrypted PEM key"
        return "" if key.public_key() == certificate.public_key() else "the key does not belong to the certificate"


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


def peer_identity(context: Context) -> Identity | None:
    """Who called, from the certificate's only URI name and nothing else. None: no certificate, or none of ours.

    A DNS name spelt like a SPIFFE id does not count: gRPC lists URIs apart.
    """
    uris = list(context.auth_context().get("peer_uri", ()))
    return parse_spiffe(uris[0].decode("ascii", "replace")) if len(uris) == 1 else None


def tls_version(context: Context) -> str:
    """The protocol the caller came over, for example `TLSv1.3`. Empty: none."""
    return b"".join(context.auth_context().get("ssl_tls_version", ())).decode("ascii", "replace")


def server_credentials(files: TlsFiles, *, client_certificates: bool = True) -> grpc.ServerCredentials:
    """Credentials of a server. The files are looked at on each handshake and read again when they changed.

    While one is being replaced, or the key does not fit the certificate yet, the identity from before serves on.
    """
    current = files.version()
    log = get_logger(__name__)

    def configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(material.key, material.cert_chain)],
            root_certificates=material.ca if client_certificates else None,
        )

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        with contextlib.suppress(OSError):
            now = files.version()
            if now != current:
                material = files.read()
                current = now
                problem = material.problem()
                if not problem:
                    log.info("serving with a new certificate", file=str(files.cert_file))
                    return configuration(material)
                log.warning("new TLS files are not usable yet", reason=problem, file=str(files.cert_file))
        return None

    return grpc.dynamic_ssl_server_credentials(
        configuration(files.read()),
        changed,  # type: ignore[arg-type]  # None means unchanged, which the stubs do not know
        require_client_authentication=client_certificates,
    )


class Channels:
    """Client channels that check their server's name and follow changes of our own certificate.

    At most `max_channels` are open for use; the one unused longest is retired for a new one. A retired channel finishes
    the calls that run on it, for an hour at most.
    """

    def __init__(self, files: TlsFiles, *, max_channels: int = MAX_CHANNELS) -> None:
        self._files = files
        self._max_channels = max_channels
        # In the order of their last use.
        self._channels: dict[tuple[str, str], tuple[grpc.aio.Channel, Version]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def service(self, name: str, target: str) -> grpc.aio.Channel:
        """The channel to a service at `target` (host:port). Ask anew for each call or stream."""
        return self._channel(service_dns_name(name), target)

    def node(self, node_id: str, target: str) -> grpc.aio.Channel:
        """The channel to a node's agent at `target` (host:port). Ask anew for each call or stream."""
        return self._channel(node_dns_name(node_id), target)

    def renew(self, name: str, target: str) -> None:
        """Asks for a new connection to a service that hangs: whoever asks for the channel next gets another one."""
        known = self._channels.pop((service_dns_name(name), target), None)
        if known is not None:
            self._retire(known[0])

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
        known = self._channels.pop(key, None)
        if known is not None:
            self._channels[key] = known
        try:
            version = self._files.version()
            if known is not None and known[1] == version:
                return known[0]
            material = self._files.read()
            problem = material.problem()
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}"
        if problem:
            if known is not None:
                # Files that are being replaced: the identity from before serves on.
                return known[0]
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"the TLS files cannot be used: {problem}")
        channel = open_channel(target, material, dns_name)
        self._channels[key] = (channel, version)
        if known is not None:
            self._retire(known[0])
        elif len(self._channels) > self._max_channels:
            self._retire(self._channels.pop(next(iter(self._channels)))[0])
        return channel

    def _retire(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.create_task(channel.close(_RETIRED_CHANNEL_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def open_channel(target: str, material: TlsMaterial, dns_name: str) -> grpc.aio.Channel:
    """A channel that presents `material` and accepts only a server with `dns_name` in its certificate."""
    credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.cert_chain)
    options: Sequence[tuple[str, int | str]] = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", dns_name))
    return grpc.aio.secure_channel(target, credentials, options=options)


def open_anonymous_channel(target: str, ca: bytes, dns_name: str) -> grpc.aio.Channel:
    """A channel without a certificate of our own, for joining."""
    options: Sequence[tuple[str, int | str]] = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", dns_name))
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca), options=options)

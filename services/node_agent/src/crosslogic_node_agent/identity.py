"""Who this node is: its key, made here and never sent anywhere, and the certificate that the registry wrote for it."""

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crosslogic_common.tls import Identity, TlsFiles, parse_spiffe


@dataclass(frozen=True, slots=True)
class Certificate:
    """A node's certificate as far as the agent reads it."""

    node: Identity
    not_before: datetime
    not_after: datetime

    def half_life(self) -> datetime:
        """When it is to be renewed."""
        return self.not_before + (self.not_after - self.not_before) / 2


class IdentityFiles:
    """The identity in the agent's state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._key_file = state_dir / "node.key"
        self._certificate_file = state_dir / "node.crt"
        self._ca_file = state_dir / "ca.crt"

    @property
    def tls(self) -> TlsFiles:
        """For servers and channels, which read them again when they change."""
        return TlsFiles(self._certificate_file, self._key_file, self._ca_file)

    def certificate(self) -> Certificate | None:
        """The certificate there is, if it is a node's and fits the key; it may have expired."""
        try:
            certificate = x509.load_pem_x509_certificate(self._certificate_file.read_bytes())
            key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if not self._ca_file.is_file() or certificate.public_key() != key.public_key():
                return None
        except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
            return None
        for spiffe_id in names.get_values_for_type(x509.UniformResourceIdentifier):
            node = parse_spiffe(spiffe_id)
            if node is not None and node.kind == "node":
                return Certificate(node, certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        return None

    def request(self) -> bytes:
        """A certificate request in DER for the key there is, which is made if need be."""
        key = self._key()
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.DER)

    def store(self, chain_pem: bytes, ca_pem: bytes) -> None:
        """Keeps what the registry answered."""
        if not self._ca_file.is_file() or self._ca_file.read_bytes() != ca_pem:
            _write(self._ca_file, ca_pem, 0o644)
        _write(self._certificate_file, chain_pem, 0o644)

    def _key(self) -> ec.EllipticCurvePrivateKey:
        with contextlib.suppress(OSError, ValueError, TypeError):
            key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(self._key_file, pem, 0o600)
        return key


def is_valid(certificate: Certificate | None, now: datetime | None = None) -> bool:
    """Whether the certificate can be used now."""
    now = now or datetime.now(UTC)
    return certificate is not None and certificate.not_before <= now < certificate.not_after


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replaces a file at once, so that no reader sees half of it and no crash leaves half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

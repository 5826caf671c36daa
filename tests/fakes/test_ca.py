"""A certificate authority for tests: right certificates, and wrong ones of every kind."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crosslogic_common.tls import TlsFiles, node_dns_name, node_spiffe_id, service_dns_name, service_spiffe_id


class CertificateMaker:
    """One authority; its certificates and keys are files below `folder`."""

    def __init__(self, folder: Path, *, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=1), critical=True
        )
        self.certificate = builder.sign(self._key, hashes.SHA256())
        self.ca_file = folder / f"{name}.pem"
        self.ca_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def service(self, name: str) -> TlsFiles:
        """A service's identity. Made anew, in the same files, each time it is asked for."""
        return self.issue(name, uris=[service_spiffe_id(name)], dns_names=[service_dns_name(name), "localhost"])

    def node(self, node_id: str, org_id: str = "") -> TlsFiles:
        """A node's identity."""
        return self.issue(node_id, uris=[node_spiffe_id(node_id, org_id)], dns_names=[node_dns_name(node_id)])

    def issue(self, stem: str, *, uris: Sequence[str], dns_names: Sequence[str]) -> TlsFiles:
        """A certificate with any names, in `<stem>.pem` and `<stem>.key`; replaced as a careful tool does it."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns_names)]
        builder = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem[:64])]), key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        files = TlsFiles(self._folder / f"{stem}.pem", self._folder / f"{stem}.key", self.ca_file)
        pem_key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _replace(files.key_file, pem_key)
        _replace(files.cert_file, certificate.public_bytes(serialization.Encoding.PEM))
        return files

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_bytes(content)
    fresh.replace(path)

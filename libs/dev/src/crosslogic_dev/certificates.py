"""The development CA: a root, an intermediate that may name nodes only, and a certificate for each service."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crosslogic_common.tls import TRUST_DOMAIN, TlsFiles, service_dns_name, service_spiffe_id
from crosslogic_dev.run_dir import write_private

OPERATOR = "operator"
_CLOCK_SKEW = timedelta(minutes=5)
_CA_LIFE = timedelta(days=3650)
_LEAF_LIFE = timedelta(days=90)
# Replaced at the first `up` in the last third of its life.
_RENEW_AT = 1 / 3


@dataclass(frozen=True, slots=True)
class CaFiles:
    """A certificate authority on disk, PEM."""

    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class _Ca:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class DevelopmentCa:
    """Issues what a suite on one machine needs, into one folder, and renews it."""

    def __init__(self, folder: Path, *, now: datetime | None = None) -> None:
        """`now` is for tests; otherwise the time is asked for."""
        self._folder = folder
        self._now = now or datetime.now(UTC)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._root = self._authority("ca", signer=None)

    @property
    def root_file(self) -> Path:
        """The certificate that everybody trusts."""
        return self._folder / "ca.pem"

    def node_ca(self) -> CaFiles:
        """The authority that the registry signs nodes with. It can name nodes only, so it cannot make a service."""
        self._authority("node-ca", signer=self._root)
        return CaFiles(self._folder / "node-ca.pem", self._folder / "node-ca.key")

    def service(self, name: str) -> TlsFiles:
        """The identity of a service, made if it is missing, near its end, or of another CA."""
        files = service_files(self._folder, name)
        if not self._good(files.cert_file, files.key_file, self._root):
            key = ec.generate_private_key(ec.SECP256R1())
            names = x509.SubjectAlternativeName(
                [
                    x509.UniformResourceIdentifier(service_spiffe_id(name)),
                    x509.DNSName(service_dns_name(name)),
                ]
            )
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
            builder = (
                self._builder(name, key, _LEAF_LIFE)
                .issuer_name(self._root.certificate.subject)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(names, critical=False)
                .add_extension(usage, critical=False)
            )
            self._write(files.cert_file, files.key_file, builder.sign(self._root.key, hashes.SHA256()), key)
        return files

    def _authority(self, name: str, *, signer: _Ca | None) -> _Ca:
        cert_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        if not self._good(cert_file, key_file, signer):
            key = ec.generate_private_key(ec.SECP256R1())
            builder = self._builder(f"CrossLogic development {name}", key, _CA_LIFE)
            builder = builder.add_extension(
                x509.BasicConstraints(ca=True, path_length=1 if signer is None else 0), critical=True
            ).add_extension(_ca_usage(), critical=True)
            if signer is not None:
                builder = builder.add_extension(
                    x509.NameConstraints([x509.DNSName(f"node.{TRUST_DOMAIN}.internal")], None), critical=True
                )
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CrossLogic development {name}")])
            issuer = subject if signer is None else signer.certificate.subject
            signed = builder.issuer_name(issuer).sign(key if signer is None else signer.key, hashes.SHA256())
            self._write(cert_file, key_file, signed, key)
        return _load(cert_file, key_file)

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey, life: timedelta) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _CLOCK_SKEW)
            .not_valid_after(self._now + life)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    def _good(self, cert_file: Path, key_file: Path, signer: _Ca | None) -> bool:
        try:
            found = _load(cert_file, key_file)
        except (OSError, ValueError):
            return False
        begin, end = found.certificate.not_valid_before_utc, found.certificate.not_valid_after_utc
        if end - self._now < (end - begin) * _RENEW_AT:
            return False
        issuer = found.certificate if signer is None else signer.certificate
        try:
            found.certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return found.certificate.public_key() == found.key.public_key()

    @staticmethod
    def _write(cert_file: Path, key_file: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(key_file, pem.decode())
        write_private(cert_file, certificate.public_bytes(serialization.Encoding.PEM).decode())


def service_files(folder: Path, name: str) -> TlsFiles:
    """Where the identity of a service lies."""
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")


def _load(cert_file: Path, key_file: Path) -> _Ca:
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{key_file} is not an elliptic-curve key")
    return _Ca(x509.load_pem_x509_certificate(cert_file.read_bytes()), key)


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )

"""Node certificates: what is asked is only a key; the identity is written by us."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.grpc_server import StartError
from crosslogic_common.tls import node_dns_name, node_spiffe_id

MAX_CSR_BYTES = 8 * 1024
_CLOCK_SKEW = timedelta(minutes=5)
_ONLY_SIGNATURES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


class NodeCertificates:
    """Signs node certificates with the fleet's CA."""

    def __init__(self, *, ca_cert_file: Path, ca_key_file: Path, trust_file: Path, validity_s: float = 3600.0) -> None:
        """`trust_file` holds the certificates that nodes must trust, PEM. Certificates are valid for `validity_s`."""
        self._ca = x509.load_pem_x509_certificate(ca_cert_file.read_bytes())
        key = serialization.load_pem_private_key(ca_key_file.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise StartError(f"{ca_key_file} must hold an elliptic-curve key")
        if key.public_key() != self._ca.public_key():
            raise StartError(f"{ca_key_file} is not the key of {ca_cert_file}")
        self._key = key
        self._trust_file = trust_file
        self._validity = timedelta(seconds=validity_s)

    def trust_pem(self) -> bytes:
        """The certificates that nodes must trust."""
        return self._trust_file.read_bytes()

    @staticmethod
    def key_sha256(csr_der: bytes) -> bytes:
        """The SHA-256 of the key (SubjectPublicKeyInfo) that a certificate is asked for.

        Raises INVALID_ARGUMENT for a request that is no P-256 key with its own signature.
        """
        encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        return hashlib.sha256(_requested_key(csr_der).public_bytes(encoding, form)).digest()

    def issue(self, csr_der: bytes, node_id: str, org_id: str) -> bytes:
        """The node's chain, PEM, up to but without the root. Raises INVALID_ARGUMENT as `key_sha256` does."""
        key = _requested_key(csr_der)
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)]))
            .issuer_name(self._ca.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(now + self._validity)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_ONLY_SIGNATURES, critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [
                        x509.UniformResourceIdentifier(node_spiffe_id(node_id, org_id)),
                        x509.DNSName(node_dns_name(node_id)),
                    ]
                ),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        if self._ca.issuer != self._ca.subject:
            chain += self._ca.public_bytes(serialization.Encoding.PEM)
        return chain


def _requested_key(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    refusal = CodedError(
        ErrorCode.INVALID_ARGUMENT,
        "`csr_der` must be a PKCS#10 request in DER for an ECDSA P-256 key, signed with that key, at most 8 KiB.",
        param="csr_der",
    )
    if not csr_der or len(csr_der) > MAX_CSR_BYTES:
        raise refusal
    try:
        csr = x509.load_der_x509_csr(csr_der)
        key = csr.public_key()
        sound = csr.is_signature_valid
    except Exception:  # noqa: BLE001  # a stranger's bytes: whatever the parser says of them, they are no request
        raise refusal from None
    if not sound or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise refusal
    return key

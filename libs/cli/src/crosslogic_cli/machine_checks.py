"""Checks of what lies around the services: certificates, databases, disk, ports, Stripe, the bucket."""

import asyncio
import importlib.util
import shutil
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from crosslogic_cli.findings import Finding, broken, doubtful, unchecked, well
from crosslogic_common.postgres import MigrationError, waiting_migrations
from crosslogic_common.redis import open_redis

SCHEMAS: Mapping[str, str] = MappingProxyType(
    {
        "identity": "identity",
        "registry": "registry",
        "accountant": "ledger",
        "billing": "billing",
        "orchestrator": "fleet",
    }
)
_SOON_DAYS = 7
_LEAST_FREE_BYTES = 2 * 1024**3
_LEAST_FREE_SHARE = 0.05
_ASK_S = 5.0


def check_certificates(folder: Path, *, now: datetime | None = None) -> list[Finding]:
    """Whether each certificate is valid now and issued under the folder's `ca.pem` (or `ca.crt`)."""
    authority = next((folder / name for name in ("ca.pem", "ca.crt") if (folder / name).exists()), None)
    if authority is None:
        return [unchecked("certificates", f"there is no ca.pem in {folder}: name the folder with --tls")]
    trusted = x509.load_pem_x509_certificates(authority.read_bytes())
    issuers = [*trusted, *_intermediates(folder, trusted)]
    found: list[Finding] = []
    for file in sorted([*folder.glob("*.pem"), *folder.glob("*.crt")]):
        if file == authority or b"BEGIN CERTIFICATE" not in file.read_bytes():
            continue
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        found += _certificate_problems(file.name, certificate, issuers, now or datetime.now(UTC))
    return found or [well("certificates", f"all in {folder} are valid and issued by {authority.name}")]


def _intermediates(folder: Path, trusted: list[x509.Certificate]) -> list[x509.Certificate]:
    found = []
    for file in folder.glob("*-ca.pem"):
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        if any(_issued_by(certificate, each) for each in trusted):
            found.append(certificate)
    return found


def _certificate_problems(
    name: str, certificate: x509.Certificate, issuers: list[x509.Certificate], now: datetime
) -> list[Finding]:
    ends = certificate.not_valid_after_utc
    renew = "renew it: `make up` does so for development, cert-manager on Kubernetes (see its Certificate's events)"
    if ends <= now:
        return [broken("certificates", f"{name} expired on {ends:%Y-%m-%d %H:%M} UTC", renew)]
    if certificate.not_valid_before_utc > now:
        return [broken("certificates", f"{name} is not valid yet", "set this machine's clock (NTP)")]
    if not any(_issued_by(certificate, issuer) for issuer in issuers):
        return [
            broken(
                "certificates",
                f"{name} was not issued by the CA that its neighbours trust",
                "issue it again under that CA, or put the new CA beside the old one in ca.pem everywhere first",
            )
        ]
    if (ends - now).days < _SOON_DAYS:
        return [doubtful("certificates", f"{name} ends in {(ends - now).days} days", renew)]
    return []


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def check_redis(url: str) -> Finding:
    """Whether Redis answers."""
    if not url:
        return unchecked("redis", "REDIS_URL is not set")

    async def ask() -> None:
        async with open_redis(url) as redis:
            await asyncio.wait_for(redis.ping(), _ASK_S)

    try:
        asyncio.run(ask())
    except Exception as error:  # noqa: BLE001  # whatever the client raises, it is the finding
        return broken(
            "redis",
            f"Redis does not answer: {type(error).__name__}",
            "start it, or correct REDIS_URL; until then each gateway worker enforces its share of every limit alone",
        )
    return well("redis", "Redis answers")


def check_database(url: str) -> list[Finding]:
    """Whether PostgreSQL answers, and whether every schema is up to date with the services installed here."""
    if not url:
        return [unchecked("database", "DATABASE_URL is not set")]
    found: list[Finding] = []
    for service, schema in SCHEMAS.items():
        if importlib.util.find_spec(f"crosslogic_{service}") is None:
            continue
        migrations = files(f"crosslogic_{service}.migrations")
        try:
            waiting = asyncio.run(waiting_migrations(url, schema=schema, migrations=migrations, wait_s=1.0))
        except MigrationError as error:
            return [broken("database", str(error), "start PostgreSQL, or correct DATABASE_URL")]
        if waiting:
            package = f"crosslogic_{service}.migrations"
            run = f"python -m crosslogic_common.migration_job --schema {schema} --migrations {package}"
            found.append(broken("database", f"{schema} is behind: {', '.join(waiting)}", f"run `{run}`"))
    return found or [well("database", "PostgreSQL answers, and every schema is up to date")]


def check_disk(folder: Path) -> Finding:
    """Whether there is room left where `folder` is."""
    usage = shutil.disk_usage(folder)
    free_gib = usage.free / 1024**3
    if usage.free < _LEAST_FREE_BYTES or usage.free < usage.total * _LEAST_FREE_SHARE:
        return broken(
            "disk",
            f"{free_gib:.1f} GiB are free of {usage.total / 1024**3:.0f} at {folder}",
            "delete old weights and logs, or give it a larger disk: PostgreSQL stops when it is full",
        )
    return well("disk", f"{free_gib:.0f} GiB are free at {folder}")


def check_port(address: str, *, gateway_answers: bool) -> Finding:
    """Whether somebody else has the gateway's port."""
    parts = urlsplit(address)
    host, port = parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)
    if gateway_answers:
        return well("port", f"the gateway has port {port}")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return broken(
                "port",
                f"another program has port {port}",
                f"find it with `ss -ltnp 'sport = :{port}'`, or move the gateway with CROSSLOGIC_HTTP_LISTEN",
            )
    return well("port", f"port {port} is free")


def check_stripe(key: str, base: str) -> Finding:
    """Whether Stripe takes the secret key. `base` is its API's address."""
    if not key:
        return unchecked("stripe", "STRIPE_SECRET_KEY is not set: nothing is exported (licence mode)")
    fix = "take the secret (sk_…) or restricted (rk_…) key of the right account from Stripe's dashboard"
    if not key.startswith(("sk_", "rk_")):
        return broken("stripe", "STRIPE_SECRET_KEY is no secret key", fix)
    try:
        answer = httpx.get(f"{base}/v1/balance", headers={"Authorization": f"Bearer {key}"}, timeout=_ASK_S)
    except httpx.HTTPError as error:
        return broken(
            "stripe", f"Stripe does not answer: {type(error).__name__}", "let billing out to api.stripe.com:443"
        )
    if answer.status_code in (401, 403):
        return broken("stripe", "Stripe refuses STRIPE_SECRET_KEY", fix)
    return well("stripe", "Stripe takes the key")


def check_bucket(endpoint: str, bucket: str) -> Finding:
    """Whether the object storage is reachable and has the bucket."""
    if not endpoint or not bucket:
        return unchecked("bucket", "no object storage is configured (R2_ACCOUNT_ID or S3_ENDPOINT, R2_BUCKET_NAME)")
    try:
        answer = httpx.head(f"{endpoint.rstrip('/')}/{bucket}", timeout=_ASK_S)
    except httpx.HTTPError as error:
        return broken(
            "bucket",
            f"{endpoint} does not answer: {type(error).__name__}",
            "correct the endpoint, or let the orchestrator and the nodes out to it on port 443",
        )
    if answer.status_code == httpx.codes.NOT_FOUND:
        return broken("bucket", f"there is no bucket {bucket}", "make it, or correct R2_BUCKET_NAME")
    return well("bucket", f"{bucket} is there")

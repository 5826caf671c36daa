"""Where the object storage is, and with whose keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from crosslogic_model_store.errors import ModelStoreError

_R2: Final = "https://{account}.r2.cloudflarestorage.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A bucket of Cloudflare R2, AWS S3, MinIO or whatever else speaks S3."""

    endpoint: str
    """`https://host` or `http://host:port`, without a path."""
    bucket: str
    region: str = "auto"
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)


def place_of(
    *, endpoint: str, account_id: str, bucket: str, region: str, access_key_id: str, secret_access_key: str
) -> Place | None:
    """The place that settings describe; None: they describe none. Raises ModelStoreError: only half of one."""
    endpoint = endpoint.rstrip("/") or (_R2.format(account=account_id) if account_id else "")
    given = {
        "R2_ACCOUNT_ID or S3_ENDPOINT": endpoint,
        "R2_BUCKET_NAME": bucket,
        "R2_ACCESS_KEY_ID": access_key_id,
        "R2_SECRET_ACCESS_KEY": secret_access_key,
    }
    missing = [name for name, value in given.items() if not value]
    if len(missing) == len(given):
        return None
    if missing:
        raise ModelStoreError(f"The object storage is set up in part; missing: {', '.join(missing)}.")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        raise ModelStoreError(f"S3_ENDPOINT must be https://host or http://host:port, not {endpoint!r}.")
    return Place(
        endpoint=endpoint,
        bucket=bucket,
        region=region or "auto",
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
    )


def place_from(environ: Mapping[str, str]) -> Place:
    """The place that the environment describes. Raises ModelStoreError: none, or half of one."""
    found = place_of(
        endpoint=environ.get("S3_ENDPOINT", ""),
        account_id=environ.get("R2_ACCOUNT_ID", ""),
        bucket=environ.get("R2_BUCKET_NAME", ""),
        region=environ.get("S3_REGION", ""),
        access_key_id=_secret(environ, "R2_ACCESS_KEY_ID"),
        secret_access_key=_secret(environ, "R2_SECRET_ACCESS_KEY"),
    )
    if found is None:
        raise ModelStoreError(
            "No object storage is set up: R2_ACCOUNT_ID (or S3_ENDPOINT and S3_REGION), R2_ACCESS_KEY_ID, "
            "R2_SECRET_ACCESS_KEY and R2_BUCKET_NAME."
        )
    return found


def _secret(environ: Mapping[str, str], name: str) -> str:
    file = environ.get(f"{name}_FILE", "")
    if environ.get(name) or not file:
        return environ.get(name, "")
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise ModelStoreError(f"{name}_FILE: {file}: {error.strerror}") from None

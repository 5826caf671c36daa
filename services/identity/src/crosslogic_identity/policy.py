"""The decisions of identity. Pure."""

import hashlib
import re
from datetime import datetime

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_identity.domain import ApiKey, Environment, KeyOwner, Kind, Org

MAX_MODELS = 1_000
_NAME_LIMITS = {"org": (1, 200), "environment": (1, 100), "api_key": (0, 200)}
_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def secret_of(kind: Kind, random_hex: str) -> str:
    """A key's secret from 32 random hexadecimal digits."""
    return f"clsk_{kind}_{random_hex}"


def digest_of(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def hint_of(secret: str) -> str:
    """What people are shown of a secret."""
    return f"{secret[:10]}…{secret[-4:]}"


def content_of(created: Org | Environment) -> bytes:
    """What a create asked for, as a SHA-256: a retry asks for the same."""
    asked = (
        ("org", created.name)
        if isinstance(created, Org)
        else ("environment", created.org_id, created.name, created.region, *created.allowed_models)
    )
    # With lengths: ("a", "bc") is not ("ab", "c").
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in asked).encode()).digest()


def refuse_unless_usable(owner: KeyOwner | None, now: datetime) -> KeyOwner:
    """The owner of a key that works at `now`.

    Raises INVALID_API_KEY for an unknown, revoked, suspended or expired key, all alike; TENANT_SUSPENDED when the
    organisation or the environment is suspended.
    """
    if owner is None or owner.key.status != "active" or _ended(owner.key, now):
        raise CodedError(ErrorCode.INVALID_API_KEY)
    if owner.org.status != "active" or owner.environment.status != "active":
        raise CodedError(ErrorCode.TENANT_SUSPENDED)
    return owner


def models_of(owner: KeyOwner) -> frozenset[str] | None:
    """The models that key and environment both allow. None: every model."""
    key, environment = frozenset(owner.key.allowed_models), frozenset(owner.environment.allowed_models)
    if not key and not environment:
        return None
    if not key or not environment:
        return key or environment
    return key & environment


def check_name(kind: str, name: str) -> str:
    """A name that may be stored. Raises INVALID_ARGUMENT."""
    low, high = _NAME_LIMITS[kind]
    if not low <= len(name) <= high or _CONTROL.search(name):
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT, f"`name` must have {low} to {high} printable characters.", param="name"
        )
    return name


def check_region(region: str) -> str:
    """A region that may be stored, empty for anywhere. Raises INVALID_ARGUMENT."""
    if region and not _REGION.fullmatch(region):
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT, "`region` must be 1 to 63 of a-z, 0-9 and `-`, or empty.", param="region"
        )
    return region


def check_models(models: tuple[str, ...]) -> tuple[str, ...]:
    """A list of models that may be stored. Raises INVALID_ARGUMENT."""
    if len(models) > MAX_MODELS or any(not 1 <= len(model) <= 200 or _CONTROL.search(model) for model in models):  # noqa: PLR2004  # the catalogue's own limit on names
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            f"`allowed_models` must be at most {MAX_MODELS} names of 1 to 200 printable characters.",
            param="allowed_models",
        )
    return tuple(dict.fromkeys(models))


def _ended(key: ApiKey, now: datetime) -> bool:
    return key.expires_at is not None and key.expires_at <= now

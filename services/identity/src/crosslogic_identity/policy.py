"""The decisions of identity about keys. Pure. What may be stored is decided in checks.py."""

import hashlib
from dataclasses import fields, replace
from datetime import datetime
from typing import TypeVar

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_identity.domain import (
    NO_LIMITS,
    Actor,
    ApiKey,
    Changes,
    Environment,
    HardBudget,
    KeyOwner,
    Kind,
    Limits,
    Org,
)

KEY_DEFAULTS = Limits(requests_per_minute=1_000)
ENVIRONMENT_DEFAULTS = Limits(requests_per_minute=10_000)
ORG_DEFAULTS = Limits(requests_per_minute=50_000)

Suspendable = TypeVar("Suspendable", Org, Environment, ApiKey)
Touchable = TypeVar("Touchable", Org, Environment)


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
    asked: tuple[str, ...]
    if isinstance(created, Org):
        asked = ("org", created.name)
        blank = Org(created.id, created.name, "active", created.cache_salt, created.created_at, created.updated_at)
        plain = created == blank
        rest = f"{created.plan} {created.limits} {created.reserved_capacity} {created.allowed_regions}"
    else:
        asked = ("environment", created.org_id, created.name, created.region, *created.allowed_models)
        plain = not (created.limits != NO_LIMITS or created.max_prompt_tokens or created.max_output_tokens)
        plain = plain and not (created.fallback_regions or created.residency_pinned or created.monthly_cap_picodollars)
        rest = (
            f"{created.limits} {created.max_prompt_tokens} {created.max_output_tokens} {created.fallback_regions} "
            f"{created.residency_pinned}"
        )
    if not plain:
        # Left out where nothing is said, so that a retry across an upgrade finds what it made before.
        asked = (*asked, rest, str(created.monthly_cap_picodollars))
    # With lengths: ("a", "bc") is not ("ab", "c").
    return hashlib.sha256("".join(f"{len(part)}:{part}" for part in asked).encode()).digest()


def refuse_unless_usable(owner: KeyOwner | None, now: datetime) -> KeyOwner:
    """The owner of a key that works at `now`.

    Raises INVALID_API_KEY for an unknown, revoked, suspended or expired key, all alike; TENANT_SUSPENDED when the
    organisation or the environment is suspended; PERMISSION_DENIED when no region is left to it.
    """
    if owner is None or owner.key.status == "revoked" or _ended(owner.key, now):
        raise CodedError(ErrorCode.INVALID_API_KEY)
    if owner.key.status != "active" or owner.org.status != "active" or owner.environment.status != "active":
        raise CodedError(ErrorCode.TENANT_SUSPENDED)
    regions_of(owner)
    return owner


def models_of(owner: KeyOwner) -> frozenset[str] | None:
    """The models that key and environment both allow. None: every model."""
    key, environment = frozenset(owner.key.allowed_models), frozenset(owner.environment.allowed_models)
    if not key and not environment:
        return None
    if not key or not environment:
        return key or environment
    return key & environment


def regions_of(owner: KeyOwner) -> tuple[str, tuple[str, ...], bool]:
    """The region its requests run in, every region they may run in, and whether they may run nowhere else.

    The first is empty for anywhere; so is the second, and then the fleet's region table says where they go when the
    first is down. Raises PERMISSION_DENIED when organisation, environment and key leave none.
    """
    environment = owner.environment
    lists = [set(one) for one in (owner.org.allowed_regions, owner.key.allowed_regions) if one]
    own: tuple[str, ...] = ()
    if environment.region and (lists or environment.fallback_regions or environment.residency_pinned):
        # An environment that names no fallback may use whatever organisation and key name.
        others = environment.fallback_regions
        if not others and not environment.residency_pinned:
            others = owner.org.allowed_regions or owner.key.allowed_regions
        own = tuple(dict.fromkeys((environment.region, *others)))
    elif lists:
        own = owner.org.allowed_regions or owner.key.allowed_regions
    if not own:
        return environment.region, (), False
    allowed = tuple(region for region in own if all(region in one for one in lists))
    if not allowed:
        raise CodedError(
            ErrorCode.PERMISSION_DENIED, "No region is left that the account, the environment and the key all allow."
        )
    return allowed[0], allowed, len(allowed) == 1


def limits_of(own: Limits, plan: Limits, default: Limits) -> Limits:
    """What counts: one's own, else the plan's, else the default."""
    values = {}
    for one in fields(Limits):
        found = (getattr(limits, one.name) for limits in (own, plan, default))
        values[one.name] = next((value for value in found if value is not None), None)
    return Limits(**values)


def length_of(environment: int, plan: int) -> int:
    """The longest that is allowed, tokens: an environment can only ask for less than its plan. 0: no limit."""
    return min(environment, plan) if environment and plan else environment or plan


def budgets_of(owner: KeyOwner) -> tuple[HardBudget, ...]:
    """Every monthly cap that the key's requests count against."""
    caps = (
        HardBudget("org", owner.org.id, org_cap_of(owner)),
        HardBudget("environment", owner.environment.id, owner.environment.monthly_cap_picodollars),
        HardBudget("api_key", owner.key.id, owner.key.monthly_cap_picodollars),
    )
    return tuple(cap for cap in caps if cap.limit_picodollars)


def org_cap_of(owner: KeyOwner) -> int:
    """The most that the organisation may spend in a month, pico-dollars. 0: no cap."""
    return owner.org.monthly_cap_picodollars or owner.plan.monthly_cap_picodollars


def changed(before: Suspendable, changes: Changes, by: Actor) -> Suspendable:
    """The thing after the changes. Raises PERMISSION_DENIED: an organisation ends a suspension by the platform."""
    values = changes.values()
    reason = values.pop("status_reason", "")
    status = values.get("status")
    if status is not None:
        of_platform = before.status == "suspended" and before.suspended_by == "platform"
        # A program never writes over why people suspended it: it would lift that with its own suspension later.
        by_program = status == "suspended" and by.kind in ("service", "system")
        if of_platform and (by.org_id or by_program):
            if status == "active":
                raise CodedError(ErrorCode.PERMISSION_DENIED, "It was suspended by the operators: ask them.")
            # Suspended already, and by those who may: nothing of theirs is written over.
            del values["status"]
        elif status == "suspended":
            values |= {"status_reason": reason, "suspended_by": "org" if by.org_id else "platform"}
        else:
            values |= {"status_reason": "", "suspended_by": ""}
    return replace(before, **values)


def touched(thing: Touchable, now: datetime) -> Touchable:
    """The thing, changed now."""
    return replace(thing, updated_at=now)


def revoked(key: ApiKey, now: datetime) -> ApiKey:
    """The key, ended for good; the time of the first revocation stays."""
    return replace(key, status="revoked", revoked_at=key.revoked_at or now)


def ending(key: ApiKey, ends_at: datetime) -> ApiKey:
    """The key, ending at `ends_at` unless its own end comes first."""
    return replace(key, expires_at=min(ends_at, key.expires_at or ends_at))


def successor_of(old: ApiKey, fresh: ApiKey) -> ApiKey:
    """The fresh key with all that the old one may do, a suspension included: rotating is no way around one."""
    return replace(
        old,
        id=fresh.id,
        hint=fresh.hint,
        created_at=fresh.created_at,
        revoked_at=None,
    )


def _ended(key: ApiKey, now: datetime) -> bool:
    return key.expires_at is not None and key.expires_at <= now

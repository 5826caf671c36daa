"""What may be stored. Pure; each raises INVALID_ARGUMENT that names the field."""

import ipaddress
import json
import re
from dataclasses import fields
from typing import NoReturn

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_identity.domain import Environment, Limits

MAX_MODELS = 1_000
MAX_REGIONS = 64
MAX_CIDRS = 100
MAX_RESERVED = 100
MAX_CAPACITY_UNITS = 10**9
MAX_LIMIT = 2**53 - 1
"""What every JSON reader takes without loss."""
MAX_PICODOLLARS = 2**63 - 1
MAX_TOKENS = 2**31 - 1
MAX_REASON = 1_000
MAX_TEXT = 65_536

_NAME_LIMITS = {"org": (1, 200), "environment": (1, 100), "api_key": (0, 200), "user": (0, 200)}
_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_UNFIT = re.compile(r"[\x00\ud800-\udfff]")


def name(kind: str, text: str) -> str:
    """A name."""
    low, high = _NAME_LIMITS[kind]
    if not low <= len(text) <= high or _CONTROL.search(text):
        _refuse("name", f"must have {low} to {high} printable characters")
    return text


def is_plan_name(text: str) -> bool:
    """Whether a plan can be called so."""
    return _REGION.fullmatch(text) is not None


def plan_name(text: str) -> str:
    """A plan's name."""
    if not is_plan_name(text):
        _refuse("name", "must be 1 to 63 of a-z, 0-9 and `-`, and begin and end with a letter or a digit")
    return text


def region(text: str) -> str:
    """A region, empty for anywhere."""
    if text and not _REGION.fullmatch(text):
        _refuse("region", "must be 1 to 63 of a-z, 0-9 and `-`, or empty")
    return text


def regions(field: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """A list of regions, each once."""
    if len(names) > MAX_REGIONS or not all(_REGION.fullmatch(one) for one in names):
        _refuse(field, f"must be at most {MAX_REGIONS} regions, each 1 to 63 of a-z, 0-9 and `-`")
    return tuple(dict.fromkeys(names))


def models(names: tuple[str, ...]) -> tuple[str, ...]:
    """A list of models, each once."""
    if len(names) > MAX_MODELS or not all(_is_model(one) for one in names):
        _refuse("allowed_models", f"must be at most {MAX_MODELS} names of 1 to 200 printable characters")
    return tuple(dict.fromkeys(names))


def cidrs(texts: tuple[str, ...]) -> tuple[str, ...]:
    """A list of networks in their one canonical form, each once."""
    if len(texts) > MAX_CIDRS:
        _refuse("allowed_cidrs", f"must be at most {MAX_CIDRS} networks")
    found = []
    for text in texts:
        try:
            # Bits beyond the prefix are more likely a slip than meant: 10.0.0.1/8 is refused.
            found.append(str(ipaddress.ip_network(text)))
        except ValueError:
            _refuse("allowed_cidrs", f"{text[:60]!r} is no network such as `192.0.2.0/24` or `2001:db8::/32`")
    return tuple(dict.fromkeys(found))


def limits(field: str, asked: Limits) -> Limits:
    """Limits. 0 is refused: to allow nothing, suspend."""
    for one in fields(Limits):
        value = getattr(asked, one.name)
        if value is not None and not 1 <= value <= MAX_LIMIT:
            _refuse(
                f"{field}.{one.name}", f"must be 1 to {MAX_LIMIT}; to allow nothing, suspend; to inherit, leave out"
            )
    return asked


def reserved(asked: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Reservations, by model."""
    ok = all(_is_model(model) and 1 <= units <= MAX_CAPACITY_UNITS for model, units in asked)
    if not ok or len(asked) > MAX_RESERVED or len({model for model, _ in asked}) != len(asked):
        _refuse(
            "reserved_capacity",
            f"must be at most {MAX_RESERVED} models, each once, with 1 to {MAX_CAPACITY_UNITS} capacity units",
        )
    return tuple(sorted(asked))


def picodollars(field: str, value: int) -> int:
    """A sum of money, 0 for none."""
    if not 0 <= value <= MAX_PICODOLLARS:
        _refuse(field, f"must be 0 to {MAX_PICODOLLARS} pico-dollars")
    return value


def tokens(field: str, value: int) -> int:
    """A number of tokens, 0 for none."""
    if not 0 <= value <= MAX_TOKENS:
        _refuse(field, f"must be 0 to {MAX_TOKENS} tokens")
    return value


def email(text: str) -> str:
    """An email address, in lower case."""
    if not _EMAIL.fullmatch(text) or _CONTROL.search(text):
        _refuse("email", "must be an email address of at most 320 characters")
    return text.lower()


def reason(text: str) -> str:
    """Why."""
    if len(text) > MAX_REASON or _UNFIT.search(text):
        _refuse("reason", f"must have at most {MAX_REASON} characters")
    return text


def short(field: str, text: str, low: int, high: int) -> str:
    """A text of `low` to `high` printable characters."""
    if not low <= len(text) <= high or _CONTROL.search(text):
        _refuse(field, f"must have {low} to {high} printable characters")
    return text


def json_text(field: str, text: str) -> str:
    """A JSON text of the audit log, empty for none; what it says is the caller's business."""
    if len(text) > MAX_TEXT or _UNFIT.search(text):
        _refuse(field, f"must have at most {MAX_TEXT} characters")
    try:
        json.loads(text or "null")
    except (ValueError, RecursionError):
        _refuse(field, "must be JSON")
    return text


def environment(whole: Environment) -> Environment:
    """An environment whose parts agree."""
    if whole.fallback_regions and not whole.region:
        _refuse("fallback_regions", "needs a `region` to fall back from")
    if whole.residency_pinned and (not whole.region or whole.fallback_regions):
        _refuse("residency_pinned", "needs a `region` and no `fallback_regions`")
    return whole


def _is_model(text: str) -> bool:
    return 1 <= len(text) <= 200 and not _CONTROL.search(text)  # noqa: PLR2004  # the catalogue's own limit on names


def _refuse(field: str, problem: str) -> NoReturn:
    raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` {problem}.", param=field)

"""Accounts and terms, protobuf to domain and back."""

import re
from datetime import date
from fractions import Fraction
from uuid import UUID

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_billing.accounts.domain import Account
from crosslogic_billing.prices.wire import ratio, read_ratio
from crosslogic_billing.rating.domain import FREE_TOKENS_A_MONTH, Collection, Terms, Tier
from crosslogic_billing.rating.policy import MAX_MONEY_PICODOLLARS
from crosslogic_billing.standings.service import PlanTerms
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode

_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
_DIGITS = re.compile(r"[0-9]{1,30}")
_COLLECTIONS: dict[int, Collection] = {0: "invoice", pb.COLLECTION_INVOICE: "invoice", pb.COLLECTION_PREPAID: "prepaid"}


def account(found: Account) -> pb.Account:
    """An account in the contract's words."""
    return pb.Account(
        org_id=found.org_id,
        customer_id=found.customer_id,
        subscription_id=found.subscription_id,
        subscription_status=found.subscription_status,
        failing_since=None if found.failing_since is None else timestamp(found.failing_since),
        suspend_time=None if found.suspended_at is None else timestamp(found.suspended_at),
    )


def terms(agreed: Terms) -> pb.Terms:
    """Terms in the contract's words."""
    cap = agreed.monthly_cap_picodollars
    return pb.Terms(
        mode=pb.BILLING_MODE_RESERVED if agreed.mode == "reserved" else pb.BILLING_MODE_SERVERLESS,
        collection=pb.COLLECTION_PREPAID if agreed.collection == "prepaid" else pb.COLLECTION_INVOICE,
        free_tokens=agreed.free_tokens,
        discount=ratio(agreed.discount),
        tiers=[pb.Tier(from_tokens=tier.from_tokens, share=ratio(tier.share)) for tier in agreed.tiers],
        monthly_cap_picodollars=None if cap is None else str(cap),
        reserved_units=agreed.reserved_units,
        unit_fee_picodollars=str(agreed.unit_fee_picodollars),
        overage=pb.OVERAGE_SHED if agreed.overage == "shed" else pb.OVERAGE_BILL,
        time_zone=agreed.time_zone,
    )


def plan_terms(found: PlanTerms) -> pb.PlanTerms:
    """A plan's terms in the contract's words."""
    return pb.PlanTerms(
        plan=found.plan,
        version=found.version,
        from_month="" if found.from_month is None else f"{found.from_month:%Y-%m}",
        terms=terms(found.terms),
    )


def read_terms(message: pb.Terms) -> Terms:
    """Terms as asked for. Raises INVALID_ARGUMENT for what cannot be read."""
    if message.mode or message.overage or message.reserved_units:
        # Two places that say it would say two things one day.
        field = "mode" if message.mode else "overage" if message.overage else "reserved_units"
        raise _invalid(field, "is said by the organisation's plan and reserved capacity at identity: set it there")
    if message.collection not in _COLLECTIONS:
        raise _invalid("collection", "is not known")
    capped = message.HasField("monthly_cap_picodollars")
    return Terms(
        collection=_COLLECTIONS[message.collection],
        free_tokens=message.free_tokens if message.HasField("free_tokens") else FREE_TOKENS_A_MONTH,
        discount=read_ratio(message.discount, "discount") if message.HasField("discount") else Fraction(0),
        tiers=tuple(Tier(tier.from_tokens, read_ratio(tier.share, "share")) for tier in message.tiers),
        monthly_cap_picodollars=read_money(message.monthly_cap_picodollars, "monthly_cap_picodollars")
        if capped
        else None,
        unit_fee_picodollars=read_money(message.unit_fee_picodollars or "0", "unit_fee_picodollars"),
        time_zone=message.time_zone or "UTC",
    )


def read_money(text: str, name: str) -> int:
    """Pico-dollars in decimal digits. Raises INVALID_ARGUMENT."""
    if not _DIGITS.fullmatch(text) or int(text) > MAX_MONEY_PICODOLLARS:
        raise _invalid(name, "must be a whole number of pico-dollars in decimal digits")
    return int(text)


def read_month(text: str, default: date) -> date:
    """The first day of a month. Raises INVALID_ARGUMENT."""
    if not text:
        return default
    match = _MONTH.fullmatch(text)
    # Years that calendars and time zones of any kind agree on.
    if match is None or not 2000 <= int(match[1]) <= 2200 or not 1 <= int(match[2]) <= 12:  # noqa: PLR2004
        raise _invalid("month", "must be YYYY-MM")
    return date(int(match[1]), int(match[2]), 1)


def read_org_id(text: str) -> str:
    """An organisation's id. Raises INVALID_ARGUMENT."""
    try:
        return str(UUID(text))
    except ValueError:
        raise _invalid("org_id", "must be a UUID") from None


def _invalid(field: str, text: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{field}` {text}.", param=field)

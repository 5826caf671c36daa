"""The words of accounts."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An organisation as billing knows it."""

    org_id: str
    customer_id: str = ""
    """Stripe's. Empty: nothing is exported for it."""
    subscription_id: str = ""
    subscription_status: str = ""
    """Stripe's word."""
    failing_since: datetime | None = None
    """When its oldest unpaid invoice failed."""
    suspended_at: datetime | None = None
    """When we suspended it for that."""

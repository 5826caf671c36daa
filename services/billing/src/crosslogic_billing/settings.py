"""Billing's settings."""

from dataclasses import dataclass

from crosslogic_common.settings import Secret, integer, secret_setting, setting
from crosslogic_common.standard_settings import StandardSettings


@dataclass(frozen=True, kw_only=True)
class BillingSettings(StandardSettings):
    """Read from the environment once, at start."""

    database_url: Secret = secret_setting("DATABASE_URL", doc="PostgreSQL, as a libpq address")
    pool_size: int = setting(
        "CROSSLOGIC_POOL_SIZE", default="10", parse=integer(2, 200), doc="most database connections, 2 to 200"
    )

"""The accountant's settings."""

from dataclasses import dataclass

from crosslogic_common.settings import Secret, integer, number, secret_setting, setting
from crosslogic_common.standard_settings import StandardSettings


@dataclass(frozen=True, kw_only=True)
class AccountantSettings(StandardSettings):
    """Read from the environment once, at start."""

    database_url: Secret = secret_setting("DATABASE_URL", doc="PostgreSQL, as a libpq address")
    seal_key: Secret = secret_setting(
        "CROSSLOGIC_SEAL_KEY", doc="the key that gateways seal contexts with: 32 random bytes in base64"
    )
    witness_grace_s: float = setting(
        "CROSSLOGIC_WITNESS_GRACE_S",
        default="10",
        parse=number(0.5, 3600),
        doc="seconds that a gateway has to report before a witness settles its request; the same on all replicas",
    )
    record_writers: int = setting(
        "CROSSLOGIC_RECORD_WRITERS",
        default="2",
        parse=integer(1, 8),
        doc="connections that write usage records, 1 to 8",
    )
    commit_timeout_s: float = setting(
        "CROSSLOGIC_COMMIT_TIMEOUT_S",
        default="10",
        parse=number(0.1, 300),
        doc="seconds after which a commit without an answer is given up and tried again",
    )
    record_retention_months: int = setting(
        "CROSSLOGIC_RECORD_RETENTION_MONTHS",
        default="0",
        parse=integer(0, 1200),
        doc="whole months that records are kept after theirs, once billing has settled them; 0: for ever",
    )
    query_pool_size: int = setting(
        "CROSSLOGIC_QUERY_POOL_SIZE",
        default="4",
        parse=integer(1, 50),
        doc="most connections that answer usage queries, 1 to 50",
    )
    query_timeout_s: float = setting(
        "CROSSLOGIC_QUERY_TIMEOUT_S",
        default="5",
        parse=number(0.1, 300),
        doc="seconds that a usage query may take",
    )

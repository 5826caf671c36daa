"""Billing's settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from crosslogic_common.settings import (
    Secret,
    address,
    boolean,
    integer,
    number,
    optional_address,
    secret_setting,
    setting,
)
from crosslogic_common.standard_settings import StandardSettings

_QUARTER_HOUR_S = 900


def window_length(text: str) -> int:
    """Seconds that divide a quarter of an hour: every zone's months begin at one."""
    seconds = integer(1, _QUARTER_HOUR_S)(text)
    if _QUARTER_HOUR_S % seconds:
        raise ValueError(f"must divide {_QUARTER_HOUR_S}, not {text!r}")
    return seconds


def base_address(text: str) -> str:
    """An http address without a path, or nothing."""
    parts = urlsplit(text)
    if text and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or parts.query):
        raise ValueError(f"must be like https://host:port, not {text!r}")
    return text.rstrip("/")


@dataclass(frozen=True, kw_only=True)
class BillingSettings(StandardSettings):
    """Read from the environment once, at start."""

    database_url: Secret = secret_setting("DATABASE_URL", doc="PostgreSQL, as a libpq address")
    pool_size: int = setting(
        "CROSSLOGIC_POOL_SIZE", default="10", parse=integer(2, 200), doc="most database connections, 2 to 200"
    )
    accountant_target: str = setting("CROSSLOGIC_ACCOUNTANT_TARGET", parse=address, doc="host:port of the accountant")
    identity_target: str = setting("CROSSLOGIC_IDENTITY_TARGET", parse=address, doc="host:port of identity")
    registry_target: str = setting("CROSSLOGIC_REGISTRY_TARGET", parse=address, doc="host:port of the registry")
    window_s: int = setting(
        "CROSSLOGIC_WINDOW_S",
        default="60",
        parse=window_length,
        doc="seconds of usage that one meter event counts; divides 900",
    )
    close_delay_s: float = setting(
        "CROSSLOGIC_CLOSE_DELAY_S",
        default="30",
        parse=number(0, 86_400),
        doc="seconds after its end that a window waits for late records; what comes later is an event of its own",
    )
    stripe_secret_key: Secret = secret_setting(
        "STRIPE_SECRET_KEY", default="", doc="Stripe's key; empty: nothing is exported (licence mode)"
    )
    stripe_webhook_secret: Secret = secret_setting(
        "STRIPE_WEBHOOK_SECRET", default="", doc="what Stripe signs webhooks with; empty: none are taken"
    )
    stripe_base_address: str = setting(
        "STRIPE_BASE_ADDRESS",
        default="",
        parse=base_address,
        doc="where Stripe's API is, for tests; empty: Stripe's own address",
    )
    stripe_timeout_s: float = setting(
        "CROSSLOGIC_STRIPE_TIMEOUT_S",
        default="20",
        parse=number(0.1, 60),
        doc="seconds after which a call to Stripe is given up; whether it took effect is found out later",
    )
    stripe_lanes: int = setting(
        "CROSSLOGIC_STRIPE_LANES",
        default="16",
        parse=integer(1, 100),
        doc="most calls to Stripe at once, 1 to 100; one at a time for each customer and meter",
    )
    stripe_tax: bool = setting(
        "CROSSLOGIC_STRIPE_TAX", default="0", parse=boolean, doc="1: Stripe Tax reckons taxes on new subscriptions"
    )
    stripe_tax_code: str = setting(
        "CROSSLOGIC_STRIPE_TAX_CODE", default="", doc="Stripe's tax code of what is sold; empty: the account's default"
    )
    webhook_listen: str = setting(
        "CROSSLOGIC_WEBHOOK_LISTEN",
        default="",
        parse=optional_address,
        doc="host:port where Stripe's webhooks come in, as POST /webhooks/stripe; empty: none are taken",
    )
    payment_grace_s: float = setting(
        "CROSSLOGIC_PAYMENT_GRACE_S",
        default="604800",
        parse=number(0, 31_536_000),
        doc="seconds that an invoice may be unpaid after a payment failed, before its organisation is suspended",
    )
    kafka_brokers: str = setting(
        "CROSSLOGIC_KAFKA_BROKERS",
        default="",
        doc="host:port of Kafka brokers, with commas between, that usage events go to; empty: none do",
    )
    kafka_topic: str = setting("CROSSLOGIC_KAFKA_TOPIC", default="crosslogic.usage", doc="the topic of usage events")
    kafka_properties: Secret = secret_setting(
        "CROSSLOGIC_KAFKA_PROPERTIES",
        default="",
        doc="more of librdkafka's properties as a JSON object of strings, for example of SASL",
    )

    def kafka(self) -> Mapping[str, str]:
        """The properties. Raises ValueError when they are no JSON object of strings."""
        text = self.kafka_properties.reveal()
        try:
            found = json.loads(text) if text else {}
        except ValueError:
            found = None
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise ValueError("CROSSLOGIC_KAFKA_PROPERTIES must be a JSON object of strings")
        return found

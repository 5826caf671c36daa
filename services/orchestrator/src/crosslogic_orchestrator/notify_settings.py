"""Settings of notifications."""

from dataclasses import dataclass

from crosslogic_common.public_addresses import Network, networks
from crosslogic_common.settings import Secret, integer, number, one_of, secret_setting, setting
from crosslogic_orchestrator.notify.mailing import Security
from crosslogic_orchestrator.static_settings import PoolSettings


@dataclass(frozen=True, kw_only=True)
class NotifySettings(PoolSettings):
    """How people are told what happened."""

    notify_seal_key: Secret = secret_setting(
        "CROSSLOGIC_NOTIFY_SEAL_KEY",
        default="",
        doc="32 random bytes in base64 that seal what is secret of routes of notifications; empty: there are none",
    )
    notify_allowed: tuple[Network, ...] = setting(
        "CROSSLOGIC_NOTIFY_ALLOWED_NETWORKS",
        default="",
        parse=networks,
        doc="networks between commas, not public, that operators' routes may lead to; organisations' never do",
    )
    notify_timeout_s: float = setting(
        "CROSSLOGIC_NOTIFY_TIMEOUT_S",
        default="10",
        parse=number(0.1, 60),
        doc="seconds that an attempt to notify may take; after three times as long another replica takes it over",
    )
    smtp_host: str = setting("CROSSLOGIC_SMTP_HOST", default="", doc="host of the mail server; empty: there is no mail")
    smtp_port: int = setting("CROSSLOGIC_SMTP_PORT", default="587", parse=integer(1, 65_535), doc="its port")
    smtp_security: Security = setting(
        "CROSSLOGIC_SMTP_SECURITY",
        default="starttls",
        parse=one_of("starttls", "tls", "none"),  # type: ignore[arg-type]  # the same words
        doc="starttls, tls (from the first byte) or none (a server on this machine; no login then)",
    )
    smtp_sender: str = setting("CROSSLOGIC_SMTP_FROM", default="", doc="the sender's address of mail")
    smtp_user: str = setting("CROSSLOGIC_SMTP_USER", default="", doc="whom to log in as; empty: no login")
    smtp_password: Secret = secret_setting("CROSSLOGIC_SMTP_PASSWORD", default="", doc="the password of that login")
    billing_target: str = setting(
        "CROSSLOGIC_BILLING_TARGET",
        default="",
        doc="host:port of billing, which knows of payments that failed; empty: nobody is told of them",
    )

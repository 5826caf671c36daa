"""The providers as the settings hold them: a JSON array."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from crosslogic_common.settings import Secret
from crosslogic_gateway.oidc.domain import ProviderSettings

MAX_PROVIDERS = 16
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}\Z")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class _Provider(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    issuer: _Text
    client_id: _Text
    audiences: tuple[_Text, ...] = ()
    client_secret_file: str = ""
    email_claim: _Text = "email"
    trust_email: bool = False
    email_domains: tuple[_Text, ...] = ()
    scope: _Text = "openid email profile"


def providers(text: str) -> tuple[ProviderSettings, ...]:
    """Providers as JSON; a secret lies in the file that `client_secret_file` names. Raises ValueError."""
    if not text.strip():
        return ()
    try:
        asked = msgspec.json.decode(text, type=tuple[_Provider, ...])
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a JSON array of providers: {error}") from None
    if len(asked) > MAX_PROVIDERS:
        raise ValueError(f"more than {MAX_PROVIDERS} providers")
    for attribute in ("name", "issuer"):
        if len({getattr(one, attribute) for one in asked}) != len(asked):
            raise ValueError(f"two providers have the same {attribute}")
    return tuple(_provider(one) for one in asked)


def sound_url(url: str) -> bool:
    """Whether secrets may travel to it: HTTPS, or this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    )


def public_url(text: str) -> str:
    """Where browsers reach the gateway, without a path; empty for none. Raises ValueError."""
    if text and (not sound_url(text) or urlsplit(text).path.strip("/") or urlsplit(text).query):
        raise ValueError("not an https address without a path")
    return text.rstrip("/")


def _provider(asked: _Provider) -> ProviderSettings:
    if not sound_url(asked.issuer):
        raise ValueError(f"the issuer of {asked.name} is not https")
    if "{" in asked.issuer or asked.issuer.rstrip("/").endswith(("/common/v2.0", "/organizations/v2.0")):
        raise ValueError(f"the issuer of {asked.name} is not one company's: name its tenant")
    if asked.trust_email and not asked.email_domains:
        # Or one company could say that anybody at all is signed in.
        raise ValueError(f"the issuer of {asked.name} is trusted with emails: name the `email_domains` of its own")
    secret = ""
    if asked.client_secret_file:
        try:
            secret = Path(asked.client_secret_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(f"the client_secret_file of {asked.name}: {error.strerror}") from None
    return ProviderSettings(
        name=asked.name,
        issuer=asked.issuer,
        client_id=asked.client_id,
        audiences=asked.audiences,
        client_secret=Secret(secret),
        email_claim=asked.email_claim,
        trust_email=asked.trust_email,
        email_domains=tuple(domain.lower() for domain in asked.email_domains),
        scope=asked.scope,
    )

"""The words of signing in."""

from dataclasses import dataclass, field

from crosslogic_common.settings import Secret


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One OpenID provider that is trusted."""

    name: str
    """In `/sign-in?provider=`."""
    issuer: str
    """Exactly as the provider spells it in its tokens, for example `https://accounts.google.com`."""
    client_id: str
    audiences: tuple[str, ...] = ()
    """Further `aud` values that are taken, of scripts' own clients."""
    client_secret: Secret = field(default_factory=lambda: Secret(""), repr=False)
    email_claim: str = "email"
    trust_email: bool = False
    """The email counts without `email_verified`: only for an issuer of one company (Azure AD sends no such claim)."""
    email_domains: tuple[str, ...] = ()
    """Domains whose emails the issuer may vouch for. Empty: any, where the issuer confirms each."""
    scope: str = "openid email profile"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What a provider's discovery document says."""

    authorization: str
    token: str
    jwks: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says of a person."""

    issuer: str
    subject: str
    confirmed_email: str
    """Empty: the issuer did not confirm one."""

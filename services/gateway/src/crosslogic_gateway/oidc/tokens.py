"""Whether an ID token is valid, and what it says (OpenID Connect Core 1.0, 3.1.3.7). Pure but for the clock."""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.oidc.domain import Claims, ProviderSettings

MAX_TOKEN_CHARS = 16_384
LEEWAY_S = 30
MIN_RSA_BITS = 2048
MAX_KEYS = 64
_REQUIRED = ["iss", "sub", "aud", "exp", "iat"]
_RSA = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
_BY_CURVE = {"secp256r1": ["ES256"], "secp384r1": ["ES384"], "secp521r1": ["ES512"]}
PublicKey = RSAPublicKey | EllipticCurvePublicKey


class UnknownKeyError(Exception):
    """The token names a key that is not among those known: the issuer may have new ones."""


def keys_of(jwks: Mapping[str, Any]) -> dict[str, PublicKey]:
    """An issuer's public keys for signatures, by id. What is no such key is left out."""
    found: dict[str, PublicKey] = {}
    listed = jwks.get("keys")
    for jwk in listed[:MAX_KEYS] if isinstance(listed, list) else ():
        if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC") or jwk.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(jwk).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        strong = isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS
        if strong or isinstance(key, EllipticCurvePublicKey):
            found[str(jwk.get("kid", ""))] = key
    return found


def issuer_of(token: str) -> str:
    """Who the token says it is from: to choose whom to ask, not yet to be believed. Raises UNAUTHENTICATED."""
    if len(token) > MAX_TOKEN_CHARS:
        raise refused("longer than any ID token")
    try:
        return str(jwt.decode(token, options={"verify_signature": False}).get("iss", ""))
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise refused(f"no token: {error}") from None


def claims_of(
    token: str,
    *,
    provider: ProviderSettings,
    keys: Mapping[str, PublicKey],
    now: datetime,
    nonce: str | None = None,
) -> Claims:
    """What the token says, once all of it was checked; `nonce` is the one that a browser's sign-in sent.

    Raises UNAUTHENTICATED, and UnknownKeyError when its key is not among `keys`.
    """
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise refused(f"no token: {error}") from None
    key = _key(header, keys)
    try:
        claims = jwt.decode(
            token,
            key=key,
            algorithms=_algorithms(key),
            audience=[provider.client_id, *provider.audiences],
            issuer=provider.issuer,
            # The times are checked below, by our clock.
            options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise refused(str(error)) from None
    if str(header.get("typ", "JWT")).lower() not in ("jwt", ""):
        raise refused(f"a token of type {header.get('typ')}")
    _check_times(claims, now)
    _check_party(claims, provider)
    if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise refused("another nonce")
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject:
        raise refused("no subject")
    return Claims(provider.issuer, subject, _confirmed_email(claims, provider))


def refused(why: str) -> CodedError:
    """The one answer to every token that is not valid; why is for the log."""
    return CodedError(ErrorCode.UNAUTHENTICATED, "The token is not valid: sign in again.", private=why)


def _key(header: Mapping[str, Any], keys: Mapping[str, PublicKey]) -> PublicKey:
    kid = header.get("kid")
    if kid is None and len(keys) == 1:
        return next(iter(keys.values()))
    key = keys.get(str(kid)) if kid is not None else None
    if key is None:
        raise UnknownKeyError
    return key


def _algorithms(key: PublicKey) -> list[str]:
    """By the key, never by the token: it must not choose how it is checked."""
    return _RSA if isinstance(key, RSAPublicKey) else _BY_CURVE.get(key.curve.name, [])


def _check_times(claims: Mapping[str, Any], now: datetime) -> None:
    seconds = now.astimezone(UTC).timestamp()
    times = {name: claims.get(name, 0) for name in ("exp", "iat", "nbf")}
    if not all(isinstance(value, int | float) and abs(value) < 2**53 for value in times.values()):
        raise refused("a time that is none")
    if times["exp"] + LEEWAY_S <= seconds:
        raise refused("expired")
    if max(times["iat"], times["nbf"]) > seconds + LEEWAY_S:
        raise refused("not valid yet")


def _check_party(claims: Mapping[str, Any], provider: ProviderSettings) -> None:
    """A token for several audiences, or one that names its party, must have been made for one of ours."""
    party = claims.get("azp")
    audience = claims["aud"]
    several = isinstance(audience, list) and len(audience) > 1
    if (several or party is not None) and party not in (provider.client_id, *provider.audiences):
        raise refused("made for another party")


def _confirmed_email(claims: Mapping[str, Any], provider: ProviderSettings) -> str:
    email = claims.get(provider.email_claim)
    said = claims.get("email_verified")
    confirmed = provider.trust_email or said is True or said == "true"
    if not isinstance(email, str) or not confirmed:
        return ""
    domain = email.lower().rpartition("@")[2]
    return email.lower() if not provider.email_domains or domain in provider.email_domains else ""

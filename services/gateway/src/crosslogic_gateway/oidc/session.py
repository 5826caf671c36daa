"""What a browser keeps for us: sealed, so that it can neither read nor change it. The gateway keeps nothing."""

import base64
import binascii
import hashlib
from datetime import datetime
from typing import TypeVar

import msgspec

from crosslogic_common.errors import CodedError
from crosslogic_common.seal import Sealer
from crosslogic_common.settings import Secret

SESSION_COOKIE = "cl_admin"
STATE_COOKIE = "cl_sign_in"
MAX_COOKIE_CHARS = 4_000


class Session(msgspec.Struct, frozen=True):
    """A person who signed in."""

    issuer: str
    subject: str
    confirmed_email: str
    expires_unix_s: int


class SignInState(msgspec.Struct, frozen=True):
    """A sign-in under way."""

    provider: str
    state: str
    nonce: str
    verifier: str
    expires_unix_s: int


Kept = TypeVar("Kept", Session, SignInState)


class Cookies:
    """Seals and opens cookies. Every gateway worker has the same key, so any of them goes on."""

    def __init__(self, seal_key: Secret) -> None:
        # A key of its own: what seals cookies opens nothing else.
        own = hashlib.blake2b(base64.b64decode(seal_key.reveal()), digest_size=32, person=b"admin-cookies").digest()
        self._sealer = Sealer(own)

    def sealed(self, kept: Session | SignInState) -> str:
        """As a cookie's value."""
        name = type(kept).__name__.encode()
        return base64.urlsafe_b64encode(self._sealer.seal(msgspec.json.encode(kept), aad=name)).decode().rstrip("=")

    def opened(self, cookie: str, kind: type[Kept], now: datetime) -> Kept | None:
        """What it says. None: it is none of ours, of another kind, or over."""
        if not cookie or len(cookie) > MAX_COOKIE_CHARS:
            return None
        try:
            sealed = base64.urlsafe_b64decode(cookie.encode("ascii") + b"=" * (-len(cookie) % 4))
            kept = msgspec.json.decode(self._sealer.open(sealed, aad=kind.__name__.encode()), type=kind)
        except (binascii.Error, UnicodeError, ValueError, CodedError, msgspec.MsgspecError):
            return None
        return kept if kept.expires_unix_s > now.timestamp() else None

"""Signatures of webhooks, as the specification at standardwebhooks.com has them: receivers find libraries for it."""

import base64
import hashlib
import hmac
import secrets

from crosslogic_orchestrator.notify.domain import Target

PREFIX = "whsec_"
_NEW_BYTES = 32
_LEAST_BYTES, _MOST_BYTES = 24, 64


def new_secret() -> str:
    """A secret that nobody has."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_NEW_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """The key in a secret. Raises ValueError with the end of a sentence about it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(PREFIX) or not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise ValueError(f"must be {PREFIX} and {_LEAST_BYTES} to {_MOST_BYTES} bytes in base64")
    return key


def headers_of(target: Target, *, message_id: str, body: bytes, now_s: float) -> dict[str, str]:
    """The headers that let a receiver know who sent a body, which message it is, and that it is not an old one."""
    stamp = int(now_s)
    used = [target.secret] if target.secret else []
    if target.old_secret and now_s < target.old_until:
        used.append(target.old_secret)
    signatures = [_signature(secret, message_id, stamp, body) for secret in used]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(stamp),
        **({"webhook-signature": " ".join(signatures)} if signatures else {}),
    }


def _signature(secret: str, message_id: str, stamp: int, body: bytes) -> str:
    signed = f"{message_id}.{stamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key_of(secret), signed, hashlib.sha256).digest()).decode()

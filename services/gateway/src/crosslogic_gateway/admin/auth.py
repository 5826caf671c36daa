"""Who may use the admin API: whoever knows the operators' token."""

import hashlib
import hmac

from aiohttp import web

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.settings import Secret

ADMIN_TOKEN_HEADER = "X-Admin-Token"  # noqa: S105  # the name of a header, not a token


class AdminGate:
    """Compares tokens in a time that depends on neither."""

    def __init__(self, token: Secret) -> None:
        self._digest = _digest(token.reveal()) if token else None

    def check(self, request: web.Request) -> None:
        """Raises UNAUTHENTICATED, alike for a missing and a wrong token, and always when no token is configured."""
        sent = request.headers.getall(ADMIN_TOKEN_HEADER, [])
        # Hashing first makes both sides equally long: their length tells nothing either.
        matches = hmac.compare_digest(_digest(sent[0] if sent else ""), self._digest or bytes(32))
        if self._digest is None or len(sent) != 1 or not matches:
            raise CodedError(
                ErrorCode.UNAUTHENTICATED, f"Send the operators' token in the header `{ADMIN_TOKEN_HEADER}`."
            )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

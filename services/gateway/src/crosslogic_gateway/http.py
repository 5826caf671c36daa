"""What every HTTP answer of the gateway has: headers, error bodies, the request's id."""

import re

from aiohttp import web
from multidict import CIMultiDict

from crosslogic_common.errors import CodedError, http_status, to_openai_body

REQUEST_ID = web.RequestKey("request_id", str)
"""UUIDv7 that the gateway made: the key of the ledger, of traces and logs. Never the client's choice."""
SHOWN_REQUEST_ID = web.RequestKey("shown_request_id", str)
"""What the client is told: its own `X-Request-ID` where it sent a sound one, else ours."""
RECEIVED_AT = web.RequestKey("received_at", float)
"""The event loop's time at which the request's head was complete, in seconds."""

SECURITY_HEADERS: tuple[tuple[str, str], ...] = (
    ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)

_SOUND_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)


def shown_request_id(sent: str | None, own: str) -> str:
    """The id to answer with: the client's where it is printable and short, else ours."""
    return sent if sent is not None and _SOUND_REQUEST_ID.fullmatch(sent) else own


def answer_headers(request: web.Request, content_type: str) -> CIMultiDict[str]:
    """The headers of every answer."""
    headers = CIMultiDict(SECURITY_HEADERS)
    headers["Content-Type"] = content_type
    headers["X-Request-ID"] = request[SHOWN_REQUEST_ID]
    headers["X-CrossLogic-Request-ID"] = request[REQUEST_ID]
    return headers


def error_response(request: web.Request, error: CodedError) -> web.Response:
    """The answer to a request that failed."""
    headers = answer_headers(request, "application/json")
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return web.Response(
        status=http_status(error), body=to_openai_body(error, request[SHOWN_REQUEST_ID]), headers=headers
    )

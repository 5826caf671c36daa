"""What every HTTP answer of the gateway has: headers, error bodies, the request's id."""

import math
import re

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from multidict import CIMultiDict

from crosslogic_common.errors import CATALOGUE, CodedError, http_status, to_openai_body

REQUEST_ID = web.RequestKey("request_id", str)
"""UUIDv7 that the gateway made: the key of the ledger, of traces and logs. Never the client's choice."""
SHOWN_REQUEST_ID = web.RequestKey("shown_request_id", str)
"""What the client is told: its own `X-Request-ID` where it sent a sound one, else ours."""
RECEIVED_AT = web.RequestKey("received_at", float)
"""The event loop's time at which the request's head was complete, in seconds."""

STREAM = web.RequestKey("stream", web.StreamResponse)
"""The answer whose head was sent already; not there before."""

CORS_ORIGIN = web.RequestKey("cors_origin", str)
"""The allowed origin of a browser's request."""

RATE_LIMITS = web.RequestKey("rate_limits", str)
"""What is left of the caller's limits: whole header lines, each with its line end."""

SENT_BYTES = web.RequestKey("sent_bytes", int)
"""The body's bytes that were written to the connection past aiohttp, as streams are."""

SECURITY_HEADERS: tuple[tuple[str, str], ...] = (
    ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    ("Server", "CrossLogic"),
)
_SECURITY_LINES = "".join(f"{name}: {value}\r\n" for name, value in SECURITY_HEADERS)

_EXPOSED_HEADERS = (
    "X-Request-ID, X-CrossLogic-Request-ID, X-CrossLogic-Region-Failover, "
    "X-CrossLogic-Idempotency, Idempotent-Replayed, Retry-After, "
) + ", ".join(
    f"x-ratelimit-{what}-{counted}" for what in ("limit", "remaining", "reset") for counted in ("requests", "tokens")
)
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{1,200}", re.ASCII)
_SOUND_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)


def shown_request_id(sent: str | None, own: str) -> str:
    """The id to answer with: the client's where it is printable and short, else ours."""
    return sent if sent is not None and _SOUND_REQUEST_ID.fullmatch(sent) else own


def mark_region_failover(request: web.Request) -> None:
    """Tells the client that another region than its own answers. Once; before the head is written."""
    request[RATE_LIMITS] = request.get(RATE_LIMITS, "") + "X-CrossLogic-Region-Failover: true\r\n"


def answer_headers(request: web.Request, content_type: str) -> CIMultiDict[str]:
    """The headers of every answer."""
    headers = CIMultiDict(SECURITY_HEADERS)
    headers["Content-Type"] = content_type
    headers["X-Request-ID"] = request[SHOWN_REQUEST_ID]
    headers["X-CrossLogic-Request-ID"] = request[REQUEST_ID]
    for line in request.get(RATE_LIMITS, "").splitlines():
        name, _, value = line.partition(": ")
        headers[name] = value
    origin = request.get(CORS_ORIGIN)
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        headers["Vary"] = "Origin"
    return headers


class WholeResponse(web.StreamResponse):
    """A whole answer whose head is written as one string, in one go with its body.

    The same bytes as web.Response with `answer_headers`, at a quarter of the cost: this is most of what the gateway
    sends. Only for HTTP/1.1 with keep-alive; `whole_response` chooses.
    """

    def __init__(self, *, status: int, content_type: str, body: bytes) -> None:
        super().__init__(status=status)
        self._content_type_line = content_type
        self._bytes = body

    @property
    def body_bytes(self) -> int:
        """The body's size."""
        return len(self._bytes)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Writes the answer."""
        if self._eof_sent:
            return None
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client left")
        head = (
            f"HTTP/1.1 {self.status} {self.reason}\r\n{_SECURITY_LINES}Content-Type: {self._content_type_line}\r\n"
            f"X-Request-ID: {request[SHOWN_REQUEST_ID]}\r\nX-CrossLogic-Request-ID: {request[REQUEST_ID]}\r\n"
            f"{request.get(RATE_LIMITS, '')}"
            f"Content-Length: {len(self._bytes)}\r\nDate: {rfc822_formatted_time()}\r\n\r\n"
        )
        transport.write(head.encode("latin-1") + self._bytes)
        self._keep_alive = True
        self._eof_sent = True
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def body_bytes(request: web.Request, response: web.StreamResponse | None) -> int:
    """The size of an answer's body; 0 where there was none."""
    if isinstance(response, WholeResponse):
        return response.body_bytes
    if isinstance(response, web.Response):
        return len(response.body) if isinstance(response.body, bytes | bytearray) else 0
    sent: int = request.get(SENT_BYTES, 0)
    return sent


def whole_response(request: web.Request, *, status: int, content_type: str, body: bytes) -> web.StreamResponse:
    """An answer that is known whole."""
    plain = request.version == HttpVersion11 and request.keep_alive and CORS_ORIGIN not in request
    if plain and _HEADER_VALUE.fullmatch(content_type):
        return WholeResponse(status=status, content_type=content_type, body=body)
    return web.Response(status=status, body=body, headers=answer_headers(request, content_type))


def error_response(request: web.Request, error: CodedError) -> web.Response:
    """The answer to a request that failed."""
    headers = answer_headers(request, "application/json")
    # OpenAI's clients obey this before their own table of statuses.
    headers["x-should-retry"] = "true" if CATALOGUE[error.code].retryable else "false"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        # Exact where Retry-After is rounded up; OpenAI's clients read this one first.
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1000))
    return web.Response(
        status=http_status(error), body=to_openai_body(error, request[SHOWN_REQUEST_ID]), headers=headers
    )

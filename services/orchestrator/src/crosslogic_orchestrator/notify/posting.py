"""POSTs to an address that was checked, and to no other: names are resolved once, redirects are not followed.

HTTP libraries resolve where they connect, and follow redirects on their own: what was checked would not be what is
reached. A notification needs so little of HTTP that it is written out here.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from crosslogic_common.public_addresses import AddressRules
from crosslogic_orchestrator.notify.ports import Resolve, SendError
from crosslogic_orchestrator.notify.targets import Endpoint

_MAX_HEAD_BYTES = 16_384
_MAX_HEADS = 5
"""Of one answer: a server may send hints (1xx) before it."""
_MAX_ADDRESSES = 2
"""How many of a name's addresses are tried."""
_MAX_DIGITS = 6
_INFORMATIONAL, _OK, _REDIRECTS, _ERRORS = 100, 200, 300, 400
_GONE = 410
_NOT_REACHABLE = "The host has no address that may be reached."


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, as far as it is of interest."""

    status: int
    retry_after_s: float | None = None


class PinnedPoster:
    """Sends bodies to where they were addressed."""

    def __init__(self, *, resolve: Resolve, context: ssl.SSLContext, timeout_s: float) -> None:
        """`context` checks certificates; `timeout_s` is for a whole attempt, from the name to the answer."""
        self._resolve = resolve
        self._context = context
        self._timeout_s = timeout_s

    async def post(self, where: Endpoint, *, headers: Mapping[str, str], body: bytes, rules: AddressRules) -> None:
        """Returns when the receiver answers with a 2xx. Raises SendError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._exchange(where, _request(where, headers, body), rules)
        except TimeoutError:
            raise SendError(f"The receiver did not answer within {self._timeout_s:g} s.") from None
        except ssl.SSLCertVerificationError:
            raise SendError("The receiver's certificate is not valid.") from None
        except (OSError, EOFError):
            # Nothing more is told: how a connection fails is what port scanners ask.
            raise SendError("The connection to the receiver failed.") from None
        _judge(answer)

    async def _exchange(self, where: Endpoint, request: bytes, rules: AddressRules) -> Answer:
        last: Exception = OSError()
        for address in (await self._addresses(where, rules))[:_MAX_ADDRESSES]:
            try:
                reader, writer = await self._connect(where, address)
            except OSError as error:
                last = error
                continue
            try:
                writer.write(request)
                await writer.drain()
                return await _read_answer(reader)
            finally:
                writer.transport.abort()
        raise last

    async def _addresses(self, where: Endpoint, rules: AddressRules) -> list[str]:
        """All that the name has, or none: a name that also leads inside is not to be trusted."""
        try:
            found = list(await self._resolve(where.host, where.port))
        except (OSError, UnicodeError):
            raise SendError(_NOT_REACHABLE) from None
        if not found or not all(map(rules.allow, found)):
            raise SendError(_NOT_REACHABLE)
        return found

    async def _connect(self, where: Endpoint, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        secure = where.scheme == "https"
        return await asyncio.open_connection(
            address,
            where.port,
            limit=_MAX_HEAD_BYTES,
            ssl=self._context if secure else None,
            server_hostname=where.host if secure else None,
        )


def _request(where: Endpoint, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"POST {where.path} HTTP/1.1",
        f"Host: {where.authority}",
        "User-Agent: CrossLogic-Notifications/1",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    """The answer's head. Its body is not read: nothing of what a server says is passed on. Raises SendError."""
    for _ in range(_MAX_HEADS):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            break
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = status_line.partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit()):
            break
        if int(code) < _INFORMATIONAL:
            break
        if int(code) >= _OK:
            return Answer(int(code), _retry_after_s(lines))
    raise SendError("The receiver's answer is no HTTP.")


def _retry_after_s(lines: list[str]) -> float | None:
    for line in lines:
        name, _, value = line.partition(":")
        digits = value.strip()
        if name.lower() == "retry-after" and digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS:
            return float(digits)
    return None


def _judge(answer: Answer) -> None:
    if answer.status < _REDIRECTS:
        return
    if answer.status < _ERRORS:
        raise SendError(f"The receiver answered {answer.status}: redirects are not followed.", for_good=True)
    raise SendError(
        f"The receiver answered {answer.status}.",
        for_good=answer.status == _GONE,
        retry_after_s=answer.retry_after_s,
    )

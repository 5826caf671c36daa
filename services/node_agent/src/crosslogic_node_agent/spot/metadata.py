"""Asks a cloud's metadata service, which is on the machine's own link and speaks plain HTTP."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from crosslogic_node_agent.http1 import AnswerParser, HttpError
from crosslogic_node_agent.spot.notice import MetadataError

MAX_ANSWER_BYTES = 256 * 1024
_READ_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service answered."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> object:
        """The body as JSON; None when it is none."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return None


class _Gathered:
    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()

    def on_head(self, status: int, content_type: str) -> None:  # noqa: ARG002  # the parser's
        self.status = status

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_complete(self) -> None:
        return


class MetadataClient:
    """One connection a question: such services are asked about once a second."""

    def __init__(self, base_url: str) -> None:
        """`base_url`: `http://host` or `http://host:port`. Raises ValueError."""
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"must be http://host or http://host:port, not {base_url!r}")
        self._host = parts.hostname
        self._port = parts.port or 80
        self._authority = parts.netloc

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        timeout_s: float = 2.0,
    ) -> Answer:
        """One request. Redirects are not followed and proxies not used. Raises MetadataError."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(self._request(method, path, headers, body))
        except TimeoutError:
            raise MetadataError(f"no answer to {method} {path} within {timeout_s:g} s") from None
        except (OSError, HttpError) as error:
            raise MetadataError(f"{method} {path}: {error!r}") from None

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._authority}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body or method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body

    async def _exchange(self, request: bytes) -> Answer:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request)
            gathered = _Gathered()
            parser = AnswerParser(gathered)
            received = bytearray()
            while not parser.complete:
                data = await reader.read(_READ_BYTES)
                if not data:
                    parser.feed_eof()
                    break
                received += data
                if len(received) > MAX_ANSWER_BYTES:
                    raise HttpError("the answer is too large")
                parser.feed(data)
            return Answer(gathered.status, _headers(bytes(received)), bytes(gathered.body))
        finally:
            writer.transport.abort()


def _headers(received: bytes) -> dict[str, str]:
    head = received.partition(b"\r\n\r\n")[0].decode("latin-1")
    pairs = (line.partition(":") for line in head.split("\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def plain_token(answer: Answer) -> str:
    """A body that goes back as a header's value. Raises MetadataError when it cannot."""
    text = answer.body.decode("latin-1").strip()
    if not text or len(text) > 1024 or not text.isascii() or not text.isprintable():  # noqa: PLR2004  # AWS's have 56
        raise MetadataError("the token is none")
    return text

"""An OpenAI-compatible server of somebody else's, over TLS, that takes OpenAI's fields and refuses every other.

The last message's text (or the prompt) steers an answer, since no field can: `tokens`, `delay_ms` before each,
`fault` after `after` tokens (`cut`, `garbage`, `error_event`, `quiet_end`, `hang`, `error_finish`), or a `status` with
a `retry_after` and a `message`. `usage` says where streams tell what was used.
"""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.fakes.connections import Connections
from tests.fakes.test_ca import CertificateMaker

KEY = "sk-upstream-0123456789abcdef"
MODEL = "upstream-large-2"
HOST = "models.example"
_SAMPLING = {"model", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "seed"} | {
    *("stop", "stream", "stream_options", "temperature", "top_p", "user", "store", "metadata", "service_tier")
}
FIELDS = {
    "/v1/chat/completions": _SAMPLING
    | {"messages", "max_completion_tokens", "response_format", "tools", "tool_choice", "top_logprobs"},
    "/v1/completions": _SAMPLING | {"prompt", "best_of", "echo", "suffix"},
    "/v1/embeddings": {"model", "input", "encoding_format", "dimensions", "user"},
}
PROMPT_TOKENS = 11


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    gone: bool = False
    """The client closed before the answer was complete."""


@dataclass
class StrictOpenAi:
    """`async with StrictOpenAi(folder) as server:`; everything of it runs on one event loop."""

    folder: Path
    usage: str = "final"
    """`final`, `last_choice` (with the chunk that ends the choice), `each`, `none`, `refuses` (the option), or
    `continuous` (takes vLLM's option and does as it says)."""
    models_status: int = 200
    takes_key: bool = True
    key_header: str = "authorization"
    """Where it looks for its key."""
    plain: bool = False
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    _open: Connections = field(default_factory=Connections)

    @property
    def ca_file(self) -> Path:
        """Who signed its certificate."""
        return self.folder / "ca" / "upstream-ca.pem"

    @property
    def answered(self) -> list[Asked]:
        """What was asked but for its list of models."""
        return [each for each in self.asked if each.method == "POST"]

    async def __aenter__(self) -> Self:
        context = None
        if not self.plain:
            maker = CertificateMaker(self.folder / "ca", name="upstream-ca")
            files = maker.issue("upstream", uris=[], dns_names=[HOST, "localhost"])
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.cert_file, files.key_file)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._open.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        async with self._open.one(writer):
            while await self._one(reader, writer):
                pass

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        asked = Asked(method, path, headers, json.loads(raw or b"{}"))
        self.asked.append(asked)
        if not self._admitted(asked, writer):
            return True
        # Anything more from the client before the answer is out can only be its end.
        leaving = asyncio.create_task(reader.read(1))
        answering = asyncio.create_task(self._answer(asked, writer))
        try:
            await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
            # Who writes may learn of the client's end before who reads does.
            asked.gone = not answering.done() or isinstance(answering.exception(), OSError)
            return False if asked.gone else answering.result()
        finally:
            for task in (leaving, answering):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task

    @property
    def _options(self) -> set[str]:
        return {"include_usage", "continuous_usage_stats"} if self.usage == "continuous" else {"include_usage"}

    def _admitted(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        """Whether an answer is to be made; else it is answered."""
        options = asked.body.get("stream_options")
        unknown = sorted(set(asked.body) - FIELDS.get(asked.path, set())) + sorted(set(options or {}) - self._options)
        key = asked.headers.get(self.key_header, "")
        if not self.takes_key or key != (f"Bearer {KEY}" if self.key_header == "authorization" else KEY):
            self._refuse(writer, 401, f"Incorrect API key provided: {key}.", code="invalid_api_key")
        elif asked.method == "GET":
            listed = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
            self._whole(writer, self.models_status, listed if asked.path == "/v1/models" else {})
        elif asked.path not in FIELDS:
            self._refuse(writer, 404, f"Unknown request URL: POST {asked.path}")
        elif unknown or (options and self.usage == "refuses"):
            self._refuse(writer, 400, f"Unrecognized request argument supplied: {unknown or 'stream_options'}")
        elif asked.body["model"] != MODEL:
            self._refuse(writer, 404, f"The model `{asked.body['model']}` does not exist", code="model_not_found")
        else:
            return True
        return False

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        body = asked.body
        steer = _steer(body)
        if "status" in steer:
            return self._refuse(
                writer,
                steer["status"],
                steer.get("message", "no"),
                code=steer.get("code"),
                retry_after=steer.get("retry_after", ""),
            )
        if asked.path == "/v1/embeddings":
            usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
            return self._whole(writer, 200, {"object": "list", "data": data, "model": MODEL, "usage": usage})
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 10_000
        tokens = min(int(steer.get("tokens", 3)), limit)
        if body.get("stream"):
            return await self._stream(asked, writer, tokens, steer)
        await asyncio.sleep(tokens * steer.get("delay_ms", 0) / 1000)
        if steer.get("fault") == "cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
            await writer.drain()
            return False
        if steer.get("fault") == "error_event":
            return self._whole(writer, 200, {"error": {"message": f"account {KEY} has failed"}})
        answer = self._envelope(asked) | {"choices": [_choice(asked.path, "y" * tokens, "stop", whole=True)]}
        if self.usage != "none":
            answer["usage"] = _usage(tokens) | {"cost": 0.0125}
        return self._whole(writer, 200, answer)

    async def _stream(self, asked: Asked, writer: asyncio.StreamWriter, tokens: int, steer: dict[str, Any]) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n" + _chunked(b": processing\n\n"))
        wanted = bool((asked.body.get("stream_options") or {}).get("include_usage"))
        for number in range(1, tokens + 1):
            await asyncio.sleep(steer.get("delay_ms", 0) / 1000)
            if number - 1 == steer.get("after", 0) and "fault" in steer and await _fails(writer, steer["fault"]):
                return False
            last = number == tokens
            finish = ("error" if steer.get("fault") == "error_finish" else "stop") if last else None
            chunk = self._envelope(asked) | {"choices": [_choice(asked.path, "y", finish, whole=False)]}
            if wanted and (self.usage in ("each", "continuous") or (self.usage == "last_choice" and last)):
                chunk["usage"] = _usage(number)
            writer.write(_event(chunk))
            await writer.drain()
        if wanted and self.usage in ("final", "continuous"):
            writer.write(_event(self._envelope(asked) | {"choices": [], "usage": _usage(tokens) | {"cost": 0.0125}}))
        writer.write(_chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()
        return True

    def _envelope(self, asked: Asked) -> dict[str, Any]:
        chat = "chat.completion" if asked.path == "/v1/chat/completions" else "text_completion"
        kind = f"{chat}.chunk" if asked.body.get("stream") and chat == "chat.completion" else chat
        return {"id": "gen-1", "object": kind, "created": 1_750_000_000, "model": MODEL, "provider": "Upstream Inc"}

    def _refuse(
        self, writer: asyncio.StreamWriter, status: int, message: str, *, code: str | None = None, retry_after: str = ""
    ) -> bool:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        return self._whole(writer, status, {"error": error}, retry_after=retry_after)

    @staticmethod
    def _whole(writer: asyncio.StreamWriter, status: int, body: dict[str, Any], *, retry_after: str = "") -> bool:
        raw = json.dumps(body).encode()
        more = f"Retry-After: {retry_after}\r\n" if retry_after else ""
        more += "Location: http://127.0.0.1:1/elsewhere\r\n" if 300 <= status < 400 else ""
        head = f"HTTP/1.1 {status} So\r\nContent-Type: application/json\r\n{more}Content-Length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw)
        return True


@contextlib.contextmanager
def strict_openai(folder: Path, **given: Any) -> Iterator[StrictOpenAi]:
    """The server on a thread of its own, for tests of whole suites. Read it; change it only while nobody asks."""
    server = StrictOpenAi(folder, **given)
    ready, stopping = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with server:
            ready.set()
            await stopping.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="strict openai")
    thread.start()
    try:
        assert ready.wait(20)
        yield server
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(20)
        loop.close()


async def _fails(writer: asyncio.StreamWriter, fault: str) -> bool:
    if fault == "error_finish":
        return False
    if fault == "garbage":
        writer.write(_chunked(b"data: {no json\n\n"))
    elif fault == "error_event":
        writer.write(_event({"error": {"message": f"the account of {KEY} ran dry", "code": 402}}))
    elif fault == "quiet_end":
        writer.write(b"0\r\n\r\n")
    elif fault == "hang":
        await writer.drain()
        await asyncio.Event().wait()
    await writer.drain()
    return True


def _steer(body: dict[str, Any]) -> dict[str, Any]:
    text = body.get("prompt") or body.get("input") or (body.get("messages") or [{}])[-1].get("content")
    with contextlib.suppress(TypeError, ValueError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}


def _usage(tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def _choice(path: str, text: str, finish: str | None, *, whole: bool) -> dict[str, Any]:
    held: dict[str, Any] = {"text": text}
    if path == "/v1/chat/completions":
        held = {"message" if whole else "delta": {"role": "assistant", "content": text}}
    return {"index": 0, "finish_reason": finish} | held


def _event(chunk: dict[str, Any]) -> bytes:
    return _chunked(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)

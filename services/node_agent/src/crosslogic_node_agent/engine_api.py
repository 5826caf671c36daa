"""What the agent itself asks of the engine: is it well, what is it, how busy is it."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any

import msgspec

from crosslogic_node_agent.domain import EngineFacts, EngineLoad
from crosslogic_node_agent.engine_connection import EngineConnection, EnginePool, request_bytes
from crosslogic_node_agent.engine_request import PATHS

MAX_ANSWER_BYTES = 16 * 1024 * 1024
_SAMPLE = re.compile(r"^(?:vllm:)(\w+)(?:\{[^}]*\})? ([0-9.eE+-]+)", re.MULTILINE)


class EngineFailureError(Exception):
    """The engine did not answer, or not as expected."""


class _Fetch:
    """One small request, gathered whole."""

    def __init__(self) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.status = 0
        self._body = bytearray()

    def on_head(self, status: int, content_type: str) -> None:  # noqa: ARG002  # the protocol's
        self.status = status

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_ANSWER_BYTES:
            self._fail("the answer is too large")

    def on_complete(self) -> None:
        if not self.done.done():
            self.done.set_result(bytes(self._body))

    def on_lost(self, reason: str, *, answered: bool) -> None:  # noqa: ARG002  # the protocol's
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(EngineFailureError(reason))


class EngineApi:
    """The engine's own endpoints."""

    def __init__(self, pool: EnginePool, wire: Callable[[str, str, bytes], bytes] = request_bytes) -> None:
        """`wire` makes a request of a method, a path and a body."""
        self._pool = pool
        self._wire = wire
        self.doubt = asyncio.Event()
        """Set when a request has found the engine unwell: it is looked at now rather than when it is time."""

    async def fetch(self, method: str, path: str, body: bytes = b"", *, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own. Raises EngineFailureError."""
        connection: EngineConnection | None = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._pool.connect(shared=False)
                fetch = _Fetch()
                connection.send(self._wire(method, path, body), fetch)
                answer = await fetch.done
                return fetch.status, answer
        except TimeoutError:
            raise EngineFailureError(f"no answer to {path} within {timeout_s:g} s") from None
        except OSError as error:
            raise EngineFailureError(f"cannot connect: {error.strerror or error}") from None
        finally:
            if connection is not None:
                connection.abort()

    async def healthy(self, *, timeout_s: float) -> None:
        """Returns when the engine says that it is well. Raises EngineFailureError."""
        status, _ = await self.fetch("GET", "/health", timeout_s=timeout_s)
        if status != 200:  # noqa: PLR2004  # HTTP's own number
            raise EngineFailureError(f"/health answered {status}")

    async def facts(self) -> EngineFacts:
        """What the engine is. Raises EngineFailureError when it does not even name its model."""
        models = await self._json("/v1/models")
        served = [card for card in models.get("data", []) if isinstance(card, dict) and isinstance(card.get("id"), str)]
        if not served:
            raise EngineFailureError("the engine serves no model")
        context_length = next((card["max_model_len"] for card in served if card.get("max_model_len")), 0)
        version = ""
        # Engines other than vLLM need not have it.
        with contextlib.suppress(EngineFailureError):
            version = str((await self._json("/version")).get("version", ""))
        return EngineFacts(
            version=version,
            served_models=tuple(card["id"] for card in served),
            context_length=int(context_length),
            paths=tuple([path for path in PATHS.values() if await self._offers(path)]),
        )

    async def load(self, *, timeout_s: float = 2.0) -> EngineLoad:
        """How busy it is. Raises EngineFailureError."""
        status, body = await self.fetch("GET", "/metrics", timeout_s=timeout_s)
        if status != 200:  # noqa: PLR2004  # HTTP's own number
            raise EngineFailureError(f"/metrics answered {status}")
        return parse_load(body.decode("utf-8", "replace"), read_at=asyncio.get_running_loop().time())

    async def _offers(self, path: str) -> bool:
        """Whether the engine has a path for POST: to a GET it says that the method is wrong, not the path."""
        status, _ = await self.fetch("GET", path, timeout_s=5.0)
        return status == 405  # noqa: PLR2004  # HTTP's own number

    async def _json(self, path: str) -> dict[str, Any]:
        status, body = await self.fetch("GET", path, timeout_s=5.0)
        if status != 200:  # noqa: PLR2004  # HTTP's own number
            raise EngineFailureError(f"{path} answered {status}")
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise EngineFailureError(f"{path}: {error}") from None


def parse_load(text: str, *, read_at: float) -> EngineLoad:
    """The load in vLLM's Prometheus text: sums over its labels, the mean for the cache's share."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name, value in _SAMPLE.findall(text):
        try:
            sums[name] = sums.get(name, 0.0) + float(value)
        except ValueError:
            continue
        counts[name] = counts.get(name, 0) + 1
    cache = sums.get("kv_cache_usage_perc", 0.0) / counts.get("kv_cache_usage_perc", 1)
    return EngineLoad(
        running=int(sums.get("num_requests_running", 0)),
        waiting=int(sums.get("num_requests_waiting", 0)),
        kv_cache_usage=min(max(cache, 0.0), 1.0),
        prompt_tokens_total=int(sums.get("prompt_tokens_total", 0)),
        generation_tokens_total=int(sums.get("generation_tokens_total", 0)),
        prefix_queries_total=int(sums.get("prefix_cache_queries_total", 0)),
        prefix_hits_total=int(sums.get("prefix_cache_hits_total", 0)),
        read_at=read_at,
    )

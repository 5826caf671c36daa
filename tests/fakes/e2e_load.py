"""Many requests at a time, and what their client saw of each."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Self

import aiohttp

from crosslogic_dev.suite import Suite

TIMEOUT_S = 60.0


@dataclass(slots=True)
class Seen:
    """What the client saw of one request."""

    stream: bool
    request_id: str = ""
    status: int = 0
    complete: bool = False
    """A 200 with its whole body, or a stream with its [DONE] and no error in it."""
    content_chunks: int = 0
    first_byte_at: float = 0.0
    ended_at: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and completion, as the client was told."""
        return self.prompt_tokens, self.completion_tokens


class Load:
    """Starts requests, half of them streamed, and follows each to its end."""

    def __init__(self, suite: Suite, *, max_tokens: int, spread: int = 1) -> None:
        """Each generates `max_tokens` and up to `spread - 1` more."""
        self._url = f"{suite.base_url}/v1/chat/completions"
        self._key = suite.api_key
        self._model = suite.model_name
        self._max_tokens = max_tokens
        self._spread = spread
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            headers={"Authorization": f"Bearer {self._key}"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    def body(self, number: int, *, stream: bool) -> dict[str, object]:
        """A request of a length of its own, so that no two are billed the same by accident."""
        words = " ".join(["word"] * (1 + number % 7))
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": f"{number} {words}"}],
            "max_tokens": self._max_tokens + number * 7 % self._spread,
            "stream": stream,
            **({"stream_options": {"include_usage": True}} if stream else {}),
        }

    async def one(self, number: int, seen: Seen) -> Seen:
        """One request to its end; `seen` is filled as it goes. Never raises but when cancelled."""
        assert self._session is not None
        body = self.body(number, stream=seen.stream)
        try:
            async with self._session.post(self._url, json=body) as answer:
                seen.request_id = answer.headers.get("X-Request-ID", "")
                seen.status = answer.status
                if seen.stream and answer.status == 200:
                    await self._follow(answer, seen)
                else:
                    raw = await answer.read()
                    self._whole(raw, seen)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            seen.error = repr(error)
        seen.ended_at = time.monotonic()
        return seen

    async def _follow(self, answer: aiohttp.ClientResponse, seen: Seen) -> None:
        async for line in answer.content:
            if not line.startswith(b"data: "):
                continue
            seen.first_byte_at = seen.first_byte_at or time.monotonic()
            if line.startswith(b"data: [DONE]"):
                seen.complete = not seen.error
                continue
            event = json.loads(line[6:])
            if "error" in event:
                seen.error = event["error"]["message"]
            if event.get("choices"):
                seen.content_chunks += 1
            _count(event, seen)

    @staticmethod
    def _whole(raw: bytes, seen: Seen) -> None:
        value = json.loads(raw)
        if seen.status == 200:
            seen.first_byte_at = time.monotonic()
            seen.complete = True
            _count(value, seen)
        else:
            seen.error = value["error"]["message"]


def _count(value: dict[str, object], seen: Seen) -> None:
    usage = value.get("usage")
    if isinstance(usage, dict):
        seen.prompt_tokens = usage["prompt_tokens"]
        seen.completion_tokens = usage["completion_tokens"]


async def wait_for(check: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    """Waits until it is true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(load: Load, seen: Sequence[Seen]) -> AsyncIterator[None]:
    """Starts all of them; at the end of the block waits until each has ended."""
    tasks = [asyncio.create_task(load.one(number, each)) for number, each in enumerate(seen)]
    try:
        yield
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""A client that writes down everything it sees of one request, and judges it against the undisturbed answer."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from crosslogic_dev.suite import Suite
from tests.chaos.oracle import PATHS, ApiName, Undisturbed, undisturbed

TIMEOUT_S = 180.0


@dataclass(slots=True)
class Asked:
    """A request, and what came of it."""

    api: ApiName
    body: dict[str, Any]
    own_oracle: Undisturbed | None = None
    """For engines whose answers cannot be computed here."""
    request_id: str = ""
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    chunk_heads: set[tuple[str, int, str, str]] = field(default_factory=set)
    roles: int = 0
    chunks: int = 0
    usage: dict[str, Any] | None = None
    finish_reasons: list[str] = field(default_factory=list)
    done: int = 0
    after_done: int = 0
    error: dict[str, Any] | None = None
    broke: str = ""
    """What the client's own library said of the connection."""
    began_at: float = 0.0
    last_at: float = 0.0
    longest_gap_s: float = 0.0
    longest_gap_until: float = 0.0
    """When the longest pause was over, on the monotonic clock as the other times."""
    chunks_before_gap: int = 0
    took_s: float = 0.0
    """From asking to the end, whatever that was."""

    @property
    def stream(self) -> bool:
        """Whether it was to be streamed."""
        return bool(self.body.get("stream"))

    @property
    def complete(self) -> bool:
        """A 200 that came to its own end."""
        return self.status == 200 and self.error is None and not self.broke and (not self.stream or self.done == 1)

    @property
    def expected(self) -> Undisturbed:
        """The undisturbed answer."""
        return self.own_oracle or undisturbed(self.api, self.body)

    def faults(self, *, may_fail: bool = False) -> list[str]:
        """What is wrong with what the client saw; a clean error is wrong unless `may_fail`."""
        return self._faults_of_whole() if self.complete else self._faults_of_failed(may_fail=may_fail)

    def _faults_of_failed(self, *, may_fail: bool) -> list[str]:
        found = []
        if not may_fail or self.broke:
            found.append(f"failed: {self.status} {self.error} {self.broke}")
        if not self.expected.text.startswith(self.text):
            found.append(f"sent what is no beginning of the answer: {self.text!r}")
        if self.error is not None and not {"message", "type", "code"} <= set(self.error):
            found.append(f"an error that no client can read: {self.error}")
        if self.done:
            found.append("a broken stream ended as if it were whole")
        return found

    def _faults_of_whole(self) -> list[str]:
        expected, usage, body = self.expected, self.usage, self.body
        wants_usage = (body.get("stream_options") or {}).get("include_usage")
        checks = {
            f"text differs: {self.text!r} is not {expected.text!r}": self.text == expected.text,
            f"finish reasons: {self.finish_reasons}": self.finish_reasons == [expected.finish_reason],
            "token ids differ": not body.get("return_token_ids") or tuple(self.token_ids) == expected.token_ids,
            f"usage {usage} is not {expected.tokens}": usage is None
            or (usage["prompt_tokens"], usage["completion_tokens"]) == expected.tokens,
        }
        if self.stream:
            checks |= {
                f"more than one stream to look at: {self.chunk_heads}": len(self.chunk_heads) == 1,
                f"{self.roles} chunks with a role": self.roles == (self.api == "chat"),
                "no final usage": usage is not None or not wants_usage,
                "something followed [DONE]": not self.after_done,
            }
        return [fault for fault, holds in checks.items() if not holds]


class Client:
    """Sends requests to a suite's gateway."""

    def __init__(self, suite: Suite, *, base_url: str = "") -> None:
        """`base_url`: what stands in front of the gateway."""
        self._suite = suite
        self._base_url = base_url or suite.base_url
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            headers={"Authorization": f"Bearer {self._suite.api_key}"},
            trust_env=False,
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, asked: Asked, *, after_s: float = 0.0) -> Asked:
        """Sends it after a while and follows it to its end; never raises but when cancelled."""
        assert self._session is not None
        await asyncio.sleep(after_s)
        asked.began_at = asked.last_at = time.monotonic()
        try:
            async with self._session.post(self._base_url + PATHS[asked.api], json=asked.body) as answer:
                asked.status = answer.status
                asked.headers = answer.headers
                asked.request_id = answer.headers.get("X-CrossLogic-Request-ID", "")
                if asked.stream and answer.status == 200:
                    await _follow(answer, asked)
                else:
                    _take_whole(json.loads(await answer.read()), asked)
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError) as error:
            asked.broke = repr(error)
        finally:
            asked.took_s = time.monotonic() - asked.began_at
        return asked


async def _follow(answer: aiohttp.ClientResponse, asked: Asked) -> None:
    async for line in answer.content:
        if not line.startswith(b"data: "):
            continue
        now = time.monotonic()
        if now - asked.last_at > asked.longest_gap_s:
            asked.longest_gap_s = now - asked.last_at
            asked.longest_gap_until = now
            asked.chunks_before_gap = asked.chunks
        asked.last_at = now
        if asked.done:
            asked.after_done += 1
        if line.startswith(b"data: [DONE]"):
            asked.done += 1
            continue
        event = json.loads(line[6:])
        if "error" in event:
            asked.error = event["error"]
            continue
        asked.chunks += 1
        asked.chunk_heads.add((event["id"], event["created"], event["object"], event["model"]))
        asked.usage = event.get("usage") or asked.usage
        for choice in event["choices"]:
            delta = choice.get("delta", {})
            asked.roles += "role" in delta
            asked.text += (delta.get("content") or "") if delta else choice.get("text", "")
            asked.token_ids += choice.get("token_ids") or ()
            if choice["finish_reason"] is not None:
                asked.finish_reasons.append(choice["finish_reason"])


def _take_whole(value: dict[str, Any], asked: Asked) -> None:
    if asked.status != 200:
        asked.error = value.get("error", {})
        return
    choice = value["choices"][0]
    asked.text = choice["message"]["content"] if "message" in choice else choice["text"]
    asked.token_ids = choice.get("token_ids") or []
    asked.finish_reasons = [choice["finish_reason"]]
    asked.usage = value["usage"]

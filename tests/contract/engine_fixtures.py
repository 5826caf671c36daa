"""What the engine contract's tests share: reading streams, and the requests they send."""

import json
from collections.abc import Mapping
from typing import Any

import httpx

from tests.fakes.engine_server import RunningEngine

Json = dict[str, Any]

COUNTED: Mapping[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "return_token_ids": True,
}
PROMPT = "the big river"
MESSAGES = [{"role": "user", "content": PROMPT}]


class Caller:
    """Speaks to one engine."""

    def __init__(self, engine: RunningEngine) -> None:
        self.engine = engine
        self.http = httpx.Client(base_url=engine.base_url, timeout=60, trust_env=False)

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """The answer to a request that must succeed."""
        answer = self.http.post(path, json={"model": self.engine.model, **body})
        assert answer.status_code == 200, answer.text
        value: Json = answer.json()
        return value

    def events(self, path: str, body: Mapping[str, Any]) -> list[tuple[str, str]]:
        """A stream's events: names (empty where there is none) and data."""
        with self.http.stream("POST", path, json={"model": self.engine.model, **body}) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            return parse_events("".join(answer.iter_text()))

    def chunks(self, path: str, body: Mapping[str, Any]) -> list[Json]:
        """The JSON chunks of a stream that ends with [DONE]."""
        data = [data for _, data in self.events(path, body)]
        assert data[-1] == "[DONE]"
        return [json.loads(each) for each in data[:-1]]

    def ids(self, prompt: list[int] | str, tokens: int) -> tuple[list[int], list[int], str]:
        """The prompt's ids, the greedy continuation's ids, and its text."""
        answer = self.post(
            "/v1/completions",
            {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "return_token_ids": True, "ignore_eos": True},
        )
        choice = answer["choices"][0]
        return choice["prompt_token_ids"], choice["token_ids"], choice["text"]


def parse_events(text: str) -> list[tuple[str, str]]:
    """Server-sent events."""
    events = []
    for block in text.split("\n\n"):
        if block:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            events.append((fields.get("event", ""), fields["data"]))
    return events


def choice_ids(chunks: list[Json], index: int = 0) -> list[int]:
    """All ids that a stream showed for a choice."""
    return [
        token
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
        for token in choice.get("token_ids") or ()
    ]

"""A stream as a gateway keeps it and a client reads it, made by an agent's own parts from an engine's chunks."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_node_agent.answer_readers import make_reader
from crosslogic_node_agent.call_output import CallOutput
from crosslogic_node_agent.engine_request import EngineRequest, build_request
from crosslogic_node_agent.events import EventError

EngineStream = Callable[[str, dict[str, Any]], Iterator[bytes]]
"""Answers a path and a body with the chunks of a stream."""


@dataclass
class KeptStream:
    """What was relayed, as a gateway keeps it, and what the client makes of it."""

    data: bytes = b""
    ids: bytes = b""
    opening: bytes = b""
    prompt_ids: bytes = b""
    unsettled_tokens: int = 0
    unsettled_text: str = ""
    completion_tokens: int = 0
    again: bool = False

    def take(self, frame: pb.RelayResponseFrame) -> None:
        if frame.HasField("head"):
            self.opening = frame.head.stream_opening
            self.prompt_ids = self.prompt_ids or frame.head.prompt_ids
        if frame.data:
            assert not frame.cannot_resume
            if self.again:
                self.ids = self.ids[: len(self.ids) - 4 * self.unsettled_tokens]
                self.again = False
            self.data += frame.data
            self.ids += frame.ids
            self.unsettled_tokens = frame.unsettled_tokens
            self.unsettled_text = frame.unsettled_text
            self.completion_tokens = frame.completion_tokens

    def resume(self) -> pb.RelayResume:
        return pb.RelayResume(
            stream_opening=self.opening,
            prompt_ids=self.prompt_ids,
            token_ids=self.ids,
            unsettled_tokens=self.unsettled_tokens,
            unsettled_text=self.unsettled_text,
            context_length=4096,
        )

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = [line[6:] for line in self.data.split(b"\n\n") if line.startswith(b"data: {")]
        return [json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        parts = [event["choices"][0] for event in self.events if event["choices"]]
        return "".join(part["delta"].get("content") or "" if "delta" in part else part["text"] for part in parts)


def opened(api: int, body: dict[str, Any], resume: pb.RelayResume | None = None) -> pb.RelayOpen:
    return pb.RelayOpen(
        api=api,  # type: ignore[arg-type]
        body=msgspec.json.encode(body),
        model="catalogue",
        stream=True,
        include_usage=True,
        return_token_ids=bool(body.get("return_token_ids")),
        request_id="id",
        first_byte_timeout_ms=1000,
        idle_timeout_ms=1000,
        resume=resume,
    )


def relay(
    engine: EngineStream,
    api: int,
    body: dict[str, Any],
    kept: KeptStream,
    *,
    chunks: int | None = None,
    resumed: bool = False,
    engine_model: str = "engine",
) -> bool:
    """Relays so many chunks of the engine's answer; says whether the answer came to its end."""
    request = opened(api, body, kept.resume() if resumed else None)
    made: EngineRequest = build_request(request, engine_model=engine_model)
    reader = make_reader(request, made)
    output = CallOutput(1)
    output.status = 200
    asked = msgspec.json.decode(made.body)
    kept.again = resumed
    for data in islice(engine(made.path, asked), chunks):
        for piece in reader.feed(data):
            output.add(piece, reader.prompt_token_ids, reader.stream_opening)
            kept.take(output.take_frame())
    try:
        reader.finish()
    except EventError:
        return False
    count = reader.count()
    assert count.prompt_tokens == len(kept.prompt_ids) // 4, "the prompt is paid once"
    kept.completion_tokens = count.completion_tokens
    return True

"""The answers of /v1/responses and /v1/messages: named events, and usage only at the end."""

from typing import Any

import msgspec

from crosslogic_sim_engine.choice import Choice
from crosslogic_sim_engine.errors import ENGINE_DEAD
from crosslogic_sim_engine.job import Job


def event(kind: str, body: dict[str, Any]) -> bytes:
    """One server-sent event with a name."""
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"


class ResponsesShape:
    """/v1/responses."""

    def __init__(self) -> None:
        self._number = -1

    def opening(self, job: Job) -> bytes:
        """Everything up to the first delta."""
        item = {"id": self._item_id(job), "content": [], "role": "assistant", "status": "in_progress"}
        return b"".join(
            (
                self._event("response.created", response=self._response(job, "in_progress")),
                self._event("response.in_progress", response=self._response(job, "in_progress")),
                self._event("response.output_item.added", item={**item, "type": "message"}, output_index=0),
                self._part_event("response.content_part.added", job, part=_part("")),
            )
        )

    def chunk(self, job: Job, choice: Choice, text: str, ids: list[int]) -> bytes:
        """A delta; none for no text."""
        del choice, ids
        job.texts[0] = job.texts.get(0, "") + text
        if not text:
            return b""
        return self._part_event("response.output_text.delta", job, delta=text, logprobs=[])

    def closing(self, job: Job) -> bytes:
        """The end of the text and of the response, with its usage."""
        text = job.texts.get(0, "")
        done = self._response(job, "completed")
        return b"".join(
            (
                self._part_event("response.output_text.done", job, text=text, logprobs=[]),
                self._part_event("response.content_part.done", job, part=_part(text)),
                self._event("response.output_item.done", item=self._item(job), output_index=0),
                self._event("response.completed", response=done),
            )
        )

    def failure(self, job: Job) -> bytes:
        """Nothing: vLLM cuts the connection."""
        del job
        return b""

    def whole(self, job: Job) -> bytes:
        """The whole answer."""
        job.texts[0] = job.choices[0].take()[0]
        return msgspec.json.encode(self._response(job, "completed"))

    def _event(self, kind: str, **members: Any) -> bytes:
        self._number += 1
        return event(kind, {**members, "sequence_number": self._number, "type": kind})

    def _part_event(self, kind: str, job: Job, **members: Any) -> bytes:
        return self._event(kind, content_index=0, item_id=self._item_id(job), output_index=0, **members)

    def _item_id(self, job: Job) -> str:
        return f"msg_{job.id.removeprefix('resp_')}"

    def _item(self, job: Job) -> dict[str, Any]:
        content = [_part(job.texts.get(0, ""))]
        return {
            "id": self._item_id(job),
            "content": content,
            "role": "assistant",
            "status": "completed",
            "type": "message",
        }

    def _response(self, job: Job, status: str) -> dict[str, Any]:
        ended = status == "completed"
        cut = ended and job.choices[0].finish_reason == "length"
        usage = {
            "input_tokens": job.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": job.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": job.prompt_tokens + job.completion_tokens,
        }
        return {
            "id": job.id,
            "created_at": job.created,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": None,
            "metadata": None,
            "model": job.model,
            "object": "response",
            "output": [self._item(job)] if ended else [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": job.request.max_tokens,
            "previous_response_id": None,
            "service_tier": "auto",
            "status": "incomplete" if cut else status,
            "truncation": "disabled",
            "usage": usage if ended else None,
        }


class MessagesShape:
    """/v1/messages."""

    def opening(self, job: Job) -> bytes:
        """The start of the message and of its one block of text."""
        message: dict[str, Any] = {
            "id": job.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": job.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": job.prompt_tokens, "output_tokens": 0},
        }
        block = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0}
        return event("message_start", {"type": "message_start", "message": message}) + event(
            "content_block_start", block
        )

    def chunk(self, job: Job, choice: Choice, text: str, ids: list[int]) -> bytes:
        """A delta; none for no text."""
        del job, choice, ids
        if not text:
            return b""
        delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}, "index": 0}
        return event("content_block_delta", delta)

    def closing(self, job: Job) -> bytes:
        """The end of the block and of the message, with its usage."""
        reason, sequence = self._stop(job)
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": {"input_tokens": job.prompt_tokens, "output_tokens": job.completion_tokens},
        }
        return b"".join(
            (
                event("content_block_stop", {"type": "content_block_stop", "index": 0}),
                event("message_delta", delta),
                event("message_stop", {"type": "message_stop"}),
            )
        )

    def failure(self, job: Job) -> bytes:
        """An error event, and no end."""
        del job
        return event("error", {"type": "error", "error": {"type": "internal_error", "message": ENGINE_DEAD}})

    def whole(self, job: Job) -> bytes:
        """The whole answer."""
        reason, sequence = self._stop(job)
        return msgspec.json.encode(
            {
                "id": job.id,
                "type": "message",
                "role": "assistant",
                "content": [{"type": "text", "text": job.choices[0].take()[0]}],
                "model": job.model,
                "stop_reason": reason,
                "stop_sequence": sequence,
                "usage": {"input_tokens": job.prompt_tokens, "output_tokens": job.completion_tokens},
            }
        )

    def _stop(self, job: Job) -> tuple[str, str | None]:
        choice = job.choices[0]
        if choice.finish_reason == "length":
            return "max_tokens", None
        if isinstance(choice.stop_reason, str):
            return "stop_sequence", choice.stop_reason
        return "end_turn", None


def _part(text: str) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}

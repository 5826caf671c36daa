"""The second half of a stream that another node began, in the words in which the first half was. Pure.

The engine is asked for a completion of ids (continuation.py), whatever API the client asked. Its chunks become chunks
of the client's API with the id, time and kind of the stream's own; its counts become those of the whole stream; text
and ids that the client has are left out.
"""

from typing import Any, Final

import msgspec

from crosslogic_node_agent.continuation import Continuation
from crosslogic_node_agent.domain import CountSource, TokenCount
from crosslogic_node_agent.engine_request import EngineRequest
from crosslogic_node_agent.events import DONE, Chunk, ChunkReader, EventError, EventSplitter, Piece, payloads
from crosslogic_node_agent.resume_points import ResumePoints

CHAT: Final = "chat.completion.chunk"
_ENCODER: Final = msgspec.json.Encoder()


class ContinuedEvents:
    """Reads the engine's stream, and writes the client's."""

    def __init__(
        self,
        request: EngineRequest,
        going: Continuation,
        *,
        include_usage: bool,
        continuous_usage: bool,
        return_token_ids: bool,
    ) -> None:
        """The flags say what the client asked for."""
        self._going = going
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._return_token_ids = return_token_ids
        self._opening = going.opening | {"model": request.model}
        self._chat = going.opening.get("object") == CHAT
        self._splitter = EventSplitter()
        self._chunks = ChunkReader(request, hide_ids=False)
        self._points = ResumePoints(hold=request.held_back or 0, sent_text=going.sent_text, strict=request.greedy)
        self._said = going.sent_text
        """Text that the client has and the engine has yet to say again."""
        self._told = going.relayed_tokens - going.settled_tokens
        """Ids that the client has and the engine has yet to tell again."""
        self._ids: tuple[int, ...] = ()
        """Ids of tokens whose chunk was left out."""
        self._kept: list[Piece] = []
        self.stream_opening = _ENCODER.encode(self._opening)
        self.finished = False

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """None: whoever asked for the continuation knows them."""
        return ()

    def feed(self, data: bytes) -> list[Piece]:
        """What of the bytes is for the client. Raises EventError, also when the engine says something else this time.

        The chunk that ends the answer is kept until the last event has come, as of a stream from its beginning.
        """
        pieces: list[Piece] = []
        for payload in payloads(self._splitter.split(data)):
            if payload == DONE:
                self.finished = self._chunks.source is not CountSource.RUNNING
                if self.finished:
                    pieces += self._kept
                    self._kept = []
                pieces.append(Piece(b"data: [DONE]\n\n", self.count().completion_tokens, ()))
                continue
            chunk = self._chunks.read(payload)
            if not chunk.choices:
                if chunk.usage is not None and self._include_usage:
                    self._kept.append(self._usage_piece(chunk))
                continue
            piece = self._piece(chunk)
            if piece is None:
                continue
            if chunk.choices[0].get("finish_reason"):
                self._kept.append(piece)
            else:
                pieces.append(piece)
        return pieces

    def count(self) -> TokenCount:
        """The tokens of the whole stream: its prompt once, and what the client was sent at the least."""
        counted = self._chunks.count()
        known = counted.source is not CountSource.NONE
        return TokenCount(
            prompt_tokens=self._going.prompt_tokens,
            cached_prompt_tokens=min(counted.cached_prompt_tokens, self._going.prompt_tokens),
            completion_tokens=max(self._going.relayed_tokens, self._going.settled_tokens + counted.completion_tokens),
            source=counted.source if known else CountSource.RUNNING,
        )

    def _piece(self, chunk: Chunk) -> Piece | None:
        choice = chunk.choices[0]
        text = choice.get("text") or ""
        ids = chunk.token_ids
        self._points.took(len(ids), text)
        ending = choice.get("finish_reason")
        shown = self._unsaid(text)
        if ending and self._said:
            raise EventError("the continuation ended before what was sent already")
        self._ids += ids
        told = min(self._told, len(self._ids))
        if not shown and not ending and not (self._return_token_ids and told < len(self._ids)):
            return None
        self._told -= told
        ids, self._ids = self._ids, ()
        body = self._opening | {"choices": [self._choice(choice, shown, ids[told:])]}
        if self._include_usage:
            body["usage"] = self._usage(chunk.usage or {}) if self._continuous_usage else None
        return Piece(
            b"data: %b\n\n" % _ENCODER.encode(body),
            self.count().completion_tokens,
            ids,
            self._points.unsettled_tokens,
            self._points.unsettled_text,
        )

    def _unsaid(self, text: str) -> str:
        said = self._said
        if not said:
            return text
        again = min(len(said), len(text))
        if text[:again] != said[:again]:
            raise EventError("the continuation says something else than what was sent already")
        self._said = said[again:]
        return text[again:]

    def _choice(self, choice: dict[str, Any], text: str, ids: tuple[int, ...]) -> dict[str, Any]:
        ending = choice.get("finish_reason")
        made: dict[str, Any] = {"index": 0}
        if self._chat:
            made["delta"] = {"content": text}
        else:
            made["text"] = text
        made |= {"logprobs": None, "finish_reason": ending}
        if ending is not None or not self._chat:
            made["stop_reason"] = choice.get("stop_reason")
        if self._return_token_ids:
            made["token_ids"] = ids
        return made

    def _usage_piece(self, chunk: Chunk) -> Piece:
        body = self._opening | {"choices": [], "usage": self._usage(chunk.usage or {})}
        return Piece(b"data: %b\n\n" % _ENCODER.encode(body), self.count().completion_tokens, ())

    def _usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        count = self.count()
        return usage | {
            "prompt_tokens": count.prompt_tokens,
            "total_tokens": count.prompt_tokens + count.completion_tokens,
            "completion_tokens": count.completion_tokens,
        }

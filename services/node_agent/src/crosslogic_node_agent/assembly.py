"""Whole answers made of a stream: so that a client that leaves a long one pays for exactly what was generated. Pure.

An engine tells its running count only to streams. A long answer that its client wants whole is therefore streamed from
the engine and put together here, into the very fields of the engine's own whole answer, which a small request at the
engine's start has shown (`AnswerTemplates`): no field is known to this code that the engine does not send.
"""

import copy
from typing import Any, Final

import msgspec

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_node_agent.domain import CountSource, TokenCount
from crosslogic_node_agent.engine_request import COUNTED_APIS, EngineRequest
from crosslogic_node_agent.events import DONE, Chunk, ChunkReader, EventError, EventSplitter, payloads

NEVER: Final = 0
MAX_TEXT_BYTES = 64 * 1024 * 1024
# Where the stream's pieces are not the whole answer's: several choices, log probabilities, calls that a parser cuts up.
_NOT_ASSEMBLED: Final = (
    "best_of",
    "echo",
    "function_call",
    "functions",
    "logprobs",
    "n",
    "prompt_logprobs",
    "tools",
    "top_logprobs",
    "use_beam_search",
)
_PLAIN: Final[dict[str, Any]] = {"n": 1, "best_of": 1}


class AnswerTemplates:
    """The engine's whole answers, by API, as it gave them to a small request."""

    def __init__(self, *, from_tokens: int) -> None:
        """Answers that may have `from_tokens` tokens or more are assembled; `NEVER`: none."""
        self._from_tokens = from_tokens
        self._answers: dict[int, dict[str, Any]] = {}

    @property
    def wanted(self) -> bool:
        """Whether any answer is to be assembled."""
        return self._from_tokens != NEVER

    def learn(self, api: int, body: bytes) -> None:
        """Takes an answer as the template of its API, unless it has fields that would have to be guessed."""
        self._answers.pop(api, None)
        try:
            answer = msgspec.json.decode(body, type=dict[str, Any])
            choice = answer["choices"][0]
            held = choice["text"] if api == pb.ENGINE_API_COMPLETIONS else choice["message"]["content"]
            if isinstance(held, str) and isinstance(answer["usage"], dict):
                self._answers[api] = answer
        except (msgspec.DecodeError, KeyError, IndexError, TypeError):
            return

    def template(self, api: int, body: dict[str, Any]) -> dict[str, Any] | None:
        """The template for a request's answer; None: its answer is not to be assembled."""
        if not self.wanted or api not in COUNTED_APIS or api not in self._answers or self._is_short(body):
            return None
        for name in _NOT_ASSEMBLED:
            value = body.get(name)
            if value not in (None, False, 0, _PLAIN.get(name)):
                return None
        prompt = body.get("prompt")
        if isinstance(prompt, list) and (not prompt or not isinstance(prompt[0], int)):
            return None
        return self._answers[api]

    def _is_short(self, body: dict[str, Any]) -> bool:
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        if limit is None:
            # What vLLM takes for completions that do not say; a chat goes on to the end of the context.
            limit = 16 if "prompt" in body else None
        return isinstance(limit, int) and limit < self._from_tokens


class AssembledAnswer:
    """Puts one whole answer together."""

    def __init__(self, request: EngineRequest, template: dict[str, Any]) -> None:
        self._request = request
        self._template = template
        self._splitter = EventSplitter()
        self._chunks = ChunkReader(request, hide_ids=False)
        self._texts: dict[str, list[str]] = {}
        self._size = 0
        self._token_ids: list[int] = []
        self._head: dict[str, Any] = {}
        self._ending: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._fingerprint: object = None
        self._done = False

    def feed(self, data: bytes) -> None:
        """Takes bytes of the stream. Raises EventError."""
        for payload in payloads(self._splitter.split(data)):
            if payload == DONE:
                self._done = self._chunks.source is CountSource.FINAL
                continue
            self._size += len(payload)
            if self._size > MAX_TEXT_BYTES * 4:
                raise EventError("the answer is too large")
            self._take(self._chunks.read(payload))

    def count(self) -> TokenCount:
        """The tokens as last told by the engine."""
        return self._chunks.count()

    def body(self) -> bytes:
        """The answer, once the stream has ended. Raises EventError when it was cut."""
        if not self._done or not self._ending:
            raise EventError("the stream ended before its last event")
        answer = copy.deepcopy(self._template)
        self._fill(answer, {name: self._head.get(name) for name in ("id", "created")})
        self._fill(answer, {"model": self._request.model, "system_fingerprint": self._fingerprint})
        self._fill(answer["usage"], {name: self._usage.get(name) for name in answer["usage"]})
        choice: dict[str, Any] = answer["choices"][0]
        holder = choice if "text" in choice else choice["message"]
        for name, parts in self._texts.items():
            holder[name] = "".join(parts)
        self._fill(choice, {"finish_reason": None, "stop_reason": None} | self._ending)
        if self._request.return_token_ids:
            self._fill(choice, {"token_ids": self._token_ids, "prompt_token_ids": self._chunks.prompt_token_ids})
            self._fill(answer, {"prompt_token_ids": self._chunks.prompt_token_ids})
        return msgspec.json.encode(answer)

    def _take(self, chunk: Chunk) -> None:
        body, choices, usage, token_ids = chunk
        self._head = self._head or body
        self._fingerprint = body.get("system_fingerprint") or self._fingerprint
        if not choices:
            self._usage = usage or {}
            return
        self._token_ids += token_ids
        choice = choices[0]
        for name, value in (choice.get("delta") or {"text": choice.get("text")}).items():
            if value is None or name == "role":
                continue
            if not isinstance(value, str):
                raise EventError(f"a part of the answer that cannot be put together: {name}")
            self._texts.setdefault(name, []).append(value)
        if choice.get("finish_reason") is not None:
            self._ending = {name: choice.get(name) for name in ("finish_reason", "stop_reason")}

    @staticmethod
    def _fill(target: dict[str, Any], values: dict[str, Any]) -> None:
        """Sets only what the engine's own answer has."""
        target.update((name, value) for name, value in values.items() if name in target)

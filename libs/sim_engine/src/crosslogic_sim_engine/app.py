"""The paths of the simulated engine."""

import asyncio
import base64
import itertools
import os
import struct
import time
from collections.abc import Callable
from typing import Any

import msgspec

from crosslogic_sim_engine import vocabulary
from crosslogic_sim_engine.choice import Choice
from crosslogic_sim_engine.config import SimConfig
from crosslogic_sim_engine.engine import Engine
from crosslogic_sim_engine.errors import ENGINE_DEAD, ApiError, bad_type
from crosslogic_sim_engine.event_shapes import MessagesShape, ResponsesShape
from crosslogic_sim_engine.faults import NO_FAULTS, FaultBoard, Faults, parse_faults
from crosslogic_sim_engine.job import Job, Shape
from crosslogic_sim_engine.parsing import Api, chat_ids, check_model, parse_generation, parse_object
from crosslogic_sim_engine.records import Counters, Records
from crosslogic_sim_engine.shapes import ChatShape, CompletionsShape
from crosslogic_sim_engine.wire import Request, StreamSink

VERSION = "0.32.0"
_ID_PREFIX: dict[Api, str] = {"completions": "cmpl", "chat": "chatcmpl", "messages": "chatcmpl", "responses": "resp"}
_JSON_TYPE = "application/json"
Handler = Callable[[Request], None]


class SimApp:
    """Answers requests. One instance is one engine; make it in the event loop that runs it."""

    def __init__(self, config: SimConfig) -> None:
        self._config = config
        self._records = Records()
        self._counters = Counters()
        self._board = FaultBoard(parse_faults(config.faults))
        self._engine = Engine(config, board=self._board, counters=self._counters)
        self._loop = asyncio.get_running_loop()
        self._started_at = int(time.time())
        self._numbers = itertools.count(int.from_bytes(os.urandom(7), "big"))
        self._shapes: dict[Api, Callable[[], Shape]] = {
            "completions": CompletionsShape,
            "chat": ChatShape,
            "responses": ResponsesShape,
            "messages": MessagesShape,
        }
        self._generating: dict[str, Api] = {
            "/v1/completions": "completions",
            "/v1/chat/completions": "chat",
            "/v1/responses": "responses",
            "/v1/messages": "messages",
        }
        self._routes: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/embeddings"): self._embeddings,
            ("POST", "/v1/messages/count_tokens"): self._count_tokens,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/sim/state"): self._state,
            ("GET", "/sim/faults"): self._get_faults,
            ("POST", "/sim/faults"): self._set_faults,
        }

    def handle(self, request: Request) -> None:
        """One request; its answer may be written later."""
        path = request.path
        api = self._generating.get(path) if request.method == "POST" else None
        try:
            if api is not None:
                self._generate(request, api)
                return
            handler = self._routes.get((request.method, path))
            if handler is not None:
                handler(request)
                return
            if path.startswith("/sim/requests/") and request.method == "GET":
                self._record(request, path.removeprefix("/sim/requests/"))
                return
        except ApiError as error:
            request.reply(error.messages_body() if api == "messages" else error.body(), status=error.status)
            return
        known = path in self._generating or any(path == other for _, other in self._routes)
        request.reply(
            b'{"detail":"Method Not Allowed"}' if known else b'{"detail":"Not Found"}', status=405 if known else 404
        )

    def stop(self) -> None:
        """Ends what is under way as vLLM does when it is told to stop."""
        self._engine.stop()

    def _new_id(self) -> str:
        return f"{next(self._numbers):016x}"

    # --- generating

    def _generate(self, request: Request, api: Api) -> None:
        faults = self._board.for_next_request()
        body = self._json(request)
        if faults is not NO_FAULTS and faults.status is not None:
            self._later(faults, lambda: self._refuse(request, faults))
            return
        parsed = parse_generation(api, body, served=self._config.model, context_tokens=self._config.context_tokens)
        job = self._job(request, api, parsed, faults)
        request.connection.on_lost = lambda: self._engine.abort(job)
        if faults is NO_FAULTS:
            self._engine.submit(job)
        else:
            self._later(faults, lambda: None if job.ended else self._engine.submit(job))

    def _later(self, faults: Faults, go_on: Callable[[], None]) -> None:
        if faults.header_delay_s:
            self._loop.call_later(faults.header_delay_s, go_on)
        else:
            go_on()

    def _answer_whole(self, request: Request, job: Job) -> None:
        if job.sink is not None:
            return
        if job.failed == "cut":
            request.break_off(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")
        elif job.failed == "garbage":
            request.break_off(b"\xff\x00?")
        elif job.failed == "error":
            error = ApiError(ENGINE_DEAD, status=500, kind="InternalServerError")
            request.reply(error.body(), status=500)
        else:
            request.reply(job.shape.whole(job))

    def _job(self, request: Request, api: Api, parsed: Any, faults: Faults) -> Job:
        given_id = request.headers.get("x-request-id")
        request_id = given_id or self._new_id()
        record = self._records.begin(
            request_id,
            path=request.path,
            stream=parsed.stream,
            prompt_tokens=sum(map(len, parsed.prompts)),
            cache_salt=parsed.cache_salt,
            traceparent=request.headers.get("traceparent", ""),
        )
        choices = [
            Choice(
                parsed,
                index=place * parsed.n + sample,
                prompt_ids=prompt,
                seed=self._config.seed,
                end_one_in=self._config.end_one_in,
            )
            for place, prompt in enumerate(parsed.prompts)
            for sample in range(parsed.n)
        ]
        return Job(
            id=f"{_ID_PREFIX[api]}_{self._new_id()}" if api == "responses" else f"{_ID_PREFIX[api]}-{request_id}",
            created=int(record.started_at),
            model=self._config.model,
            request=parsed,
            shape=self._shapes[api](),
            choices=choices,
            record=record,
            faults=faults,
            sink=StreamSink(request) if parsed.stream else None,
            on_done=lambda job: self._answer_whole(request, job),
        )

    def _refuse(self, request: Request, faults: Faults) -> None:
        status = faults.status or 500
        kinds = {429: "TooManyRequestsError", 503: "ServiceUnavailableError"}
        error = ApiError(
            f"Simulated failure with status {status}.", status=status, kind=kinds.get(status, "InternalServerError")
        )
        extra = "" if faults.retry_after_s is None else f"retry-after: {faults.retry_after_s}\r\n"
        request.reply(error.body(), status=status, extra=extra)

    def _json(self, request: Request) -> dict[str, Any]:
        kind = request.headers.get("content-type", "")
        if not kind.startswith(_JSON_TYPE):
            raise ApiError(
                "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", kind="Bad Request"
            )
        return parse_object(request.body)

    # --- the other paths

    def _embeddings(self, request: Request) -> None:
        faults = self._board.for_next_request()
        body = self._json(request)
        if faults.status is not None:
            self._refuse(request, faults)
            return
        check_model(body, self._config.model)
        value: Any = body.get("input")
        inputs: list[Any] = value if isinstance(value, list) and not (value and isinstance(value[0], int)) else [value]
        if not inputs or not all(isinstance(each, str | list) and each for each in inputs):
            raise bad_type("list_type", "input", "Input should be a valid list", value)
        prompts = [
            [vocabulary.BOS, *vocabulary.encode(each)] if isinstance(each, str) else list(each) for each in inputs
        ]
        tokens = sum(map(len, prompts))
        self._counters.prompt_tokens += tokens
        as_base64 = body.get("encoding_format") == "base64"
        data = [
            {"index": index, "object": "embedding", "embedding": self._embedding(prompt, as_base64=as_base64)}
            for index, prompt in enumerate(prompts)
        ]
        request_id = request.headers.get("x-request-id") or self._new_id()
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
        whole = {
            "id": f"embd-{request_id}",
            "object": "list",
            "created": int(time.time()),
            "model": self._config.model,
            "data": data,
            "usage": usage,
        }
        request.reply(msgspec.json.encode(whole))

    def _embedding(self, ids: list[int], *, as_base64: bool) -> list[float] | str:
        state = vocabulary.state_of(ids, seed=self._config.seed)
        numbers = []
        for _ in range(self._config.embedding_size):
            state = vocabulary.state_after(state, 1)
            numbers.append(vocabulary.word_at(state) / vocabulary.WORDS * 2 - 1)
        if not as_base64:
            return numbers
        return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()

    def _tokenize(self, request: Request) -> None:
        body = self._json(request)
        check_model(body, self._config.model)
        if "messages" in body:
            ids = chat_ids(body["messages"])
        else:
            ids = [vocabulary.BOS, *vocabulary.encode(str(body.get("prompt", "")))]
        whole = {"count": len(ids), "max_model_len": self._config.context_tokens, "tokens": ids, "token_strs": None}
        request.reply(msgspec.json.encode(whole))

    def _detokenize(self, request: Request) -> None:
        body = self._json(request)
        request.reply(msgspec.json.encode({"prompt": vocabulary.decode(body.get("tokens") or [])}))

    def _count_tokens(self, request: Request) -> None:
        body = self._json(request)
        parsed = parse_generation(
            "messages",
            {**body, "max_tokens": 1},
            served=self._config.model,
            context_tokens=self._config.context_tokens,
        )
        request.reply(msgspec.json.encode({"input_tokens": len(parsed.prompts[0])}))

    def _models(self, request: Request) -> None:
        model = {
            "id": self._config.model,
            "object": "model",
            "created": self._started_at,
            "owned_by": "vllm",
            "root": self._config.model,
            "parent": None,
            "max_model_len": self._config.context_tokens,
            "permission": [],
        }
        request.reply(msgspec.json.encode({"object": "list", "data": [model]}))

    def _health(self, request: Request) -> None:
        request.reply(b"", status=self._board.current.health_status)

    def _version(self, request: Request) -> None:
        request.reply(msgspec.json.encode({"version": VERSION}))

    def _metrics(self, request: Request) -> None:
        text = self._counters.metrics(
            model=self._config.model,
            running=self._engine.running,
            waiting=self._engine.waiting,
            used_part=self._engine.cache_used_part,
        )
        request.reply(text, content_type="text/plain; version=1.0.0; charset=utf-8")

    # --- what only a simulated engine has

    def _state(self, request: Request) -> None:
        counters = self._counters
        state = {
            "pid": os.getpid(),
            "model": self._config.model,
            "running": self._engine.running,
            "waiting": self._engine.waiting,
            "peak_running": counters.peak_running,
            "prompt_tokens": counters.prompt_tokens,
            "generated_tokens": counters.generated_tokens,
            "finished": counters.finished,
            "aborted": counters.aborted,
            "records": len(self._records),
            "faults": self._board.current,
        }
        request.reply(msgspec.json.encode(state))

    def _get_faults(self, request: Request) -> None:
        request.reply(msgspec.json.encode(self._board.current))

    def _set_faults(self, request: Request) -> None:
        try:
            faults = parse_faults(request.body or b"{}")
        except msgspec.MsgspecError as error:
            raise ApiError(str(error)) from None
        self._board.replace(faults)
        self._engine.faults_changed()
        request.reply(msgspec.json.encode(faults))

    def _record(self, request: Request, request_id: str) -> None:
        record = self._records.get(request_id)
        if record is None:
            raise ApiError(f"No request {request_id}.", status=404, kind="NotFoundError")
        request.reply(msgspec.json.encode(record))

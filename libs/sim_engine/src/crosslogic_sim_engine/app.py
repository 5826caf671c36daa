"""The paths of the simulated engine."""

import asyncio
import base64
import itertools
import os
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from crosslogic_sim_engine import vocabulary
from crosslogic_sim_engine.choice import Choice
from crosslogic_sim_engine.config import SimConfig
from crosslogic_sim_engine.engine import Engine
from crosslogic_sim_engine.errors import ENGINE_DEAD, ApiError, bad_type
from crosslogic_sim_engine.event_shapes import MessagesShape, ResponsesShape
from crosslogic_sim_engine.faults import FaultBoard, Faults, parse_faults
from crosslogic_sim_engine.job import Job, Shape
from crosslogic_sim_engine.parsing import Api, chat_ids, check_model, parse_generation, parse_object
from crosslogic_sim_engine.records import Counters, Records
from crosslogic_sim_engine.shapes import ChatShape, CompletionsShape
from crosslogic_sim_engine.wire import StreamSink, Written, answer

VERSION = "0.32.0"
_ID_PREFIX: dict[Api, str] = {"completions": "cmpl", "chat": "chatcmpl", "messages": "chatcmpl", "responses": "resp"}
_JSON_TYPE = "application/json"
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


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

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        path = request.path
        api = self._generating.get(path) if request.method == "POST" else None
        try:
            if api is not None:
                return await self._generate(request, api)
            handler = self._routes.get((request.method, path))
            if handler is not None:
                return await handler(request)
            if path.startswith("/sim/requests/") and request.method == "GET":
                return self._record(request, path.removeprefix("/sim/requests/"))
        except ApiError as error:
            body = error.messages_body() if api == "messages" else error.body()
            return answer(request, body, status=error.status)
        except ConnectionResetError:
            return Written()
        known = path in self._generating or any(path == other for _, other in self._routes)
        return answer(
            request,
            b'{"detail":"Method Not Allowed"}' if known else b'{"detail":"Not Found"}',
            status=405 if known else 404,
        )

    def stop(self) -> None:
        """Ends what is under way as vLLM does when it is told to stop."""
        self._engine.stop()

    def _new_id(self) -> str:
        return f"{next(self._numbers):016x}"

    # --- generating

    async def _generate(self, request: web.BaseRequest, api: Api) -> web.StreamResponse:
        faults = self._board.for_next_request()
        body = await self._json(request)
        if faults.header_delay_s:
            await asyncio.sleep(faults.header_delay_s)
        if faults.status is not None:
            return self._fault_answer(request, faults)
        parsed = parse_generation(api, body, served=self._config.model, context_tokens=self._config.context_tokens)
        job = self._job(request, api, parsed, faults)
        try:
            self._engine.submit(job)
            await job.done
        except asyncio.CancelledError:
            self._engine.abort(job)
            raise
        if job.sink is not None:
            return Written()
        if job.failed in ("cut", "garbage"):
            transport = request.transport
            if transport is not None:
                transport.write(
                    b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{" if job.failed == "cut" else b"\xff\x00?"
                )
                transport.close()
            return Written()
        if job.failed == "error":
            raise ApiError(ENGINE_DEAD, status=500, kind="InternalServerError")
        return answer(request, job.shape.whole(job))

    def _job(self, request: web.BaseRequest, api: Api, parsed: Any, faults: Faults) -> Job:
        given_id = request.headers.get("X-Request-Id")
        request_id = given_id or self._new_id()
        record = self._records.begin(
            request_id,
            path=request.path,
            stream=parsed.stream,
            prompt_tokens=sum(map(len, parsed.prompts)),
            cache_salt=parsed.cache_salt,
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
            done=self._loop.create_future(),
        )

    def _fault_answer(self, request: web.BaseRequest, faults: Faults) -> Written:
        status = faults.status or 500
        kinds = {429: "TooManyRequestsError", 503: "ServiceUnavailableError"}
        error = ApiError(
            f"Simulated failure with status {status}.", status=status, kind=kinds.get(status, "InternalServerError")
        )
        extra = "" if faults.retry_after_s is None else f"retry-after: {faults.retry_after_s}\r\n"
        return answer(request, error.body(), status=status, extra=extra)

    async def _json(self, request: web.BaseRequest) -> dict[str, Any]:
        body = await request.read()
        kind = request.headers.get("Content-Type", "")
        if not kind.startswith(_JSON_TYPE):
            raise ApiError(
                "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", kind="Bad Request"
            )
        return parse_object(body)

    # --- the other paths

    async def _embeddings(self, request: web.BaseRequest) -> web.StreamResponse:
        faults = self._board.for_next_request()
        body = await self._json(request)
        if faults.header_delay_s:
            await asyncio.sleep(faults.header_delay_s)
        if faults.status is not None:
            return self._fault_answer(request, faults)
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
        request_id = request.headers.get("X-Request-Id") or self._new_id()
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
        whole = {
            "id": f"embd-{request_id}",
            "object": "list",
            "created": int(time.time()),
            "model": self._config.model,
            "data": data,
            "usage": usage,
        }
        return answer(request, msgspec.json.encode(whole))

    def _embedding(self, ids: list[int], *, as_base64: bool) -> list[float] | str:
        state = vocabulary.state_of(ids, seed=self._config.seed)
        numbers = []
        for _ in range(self._config.embedding_size):
            state = vocabulary.state_after(state, 1)
            numbers.append(vocabulary.word_at(state) / vocabulary.WORDS * 2 - 1)
        if not as_base64:
            return numbers
        return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()

    async def _tokenize(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._json(request)
        check_model(body, self._config.model)
        if "messages" in body:
            ids = chat_ids(body["messages"])
        else:
            ids = [vocabulary.BOS, *vocabulary.encode(str(body.get("prompt", "")))]
        whole = {"count": len(ids), "max_model_len": self._config.context_tokens, "tokens": ids, "token_strs": None}
        return answer(request, msgspec.json.encode(whole))

    async def _detokenize(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._json(request)
        return answer(request, msgspec.json.encode({"prompt": vocabulary.decode(body.get("tokens") or [])}))

    async def _count_tokens(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._json(request)
        parsed = parse_generation(
            "messages",
            {**body, "max_tokens": 1},
            served=self._config.model,
            context_tokens=self._config.context_tokens,
        )
        return answer(request, msgspec.json.encode({"input_tokens": len(parsed.prompts[0])}))

    async def _models(self, request: web.BaseRequest) -> web.StreamResponse:
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
        return answer(request, msgspec.json.encode({"object": "list", "data": [model]}))

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        return answer(request, b"", status=self._board.current.health_status)

    async def _version(self, request: web.BaseRequest) -> web.StreamResponse:
        return answer(request, msgspec.json.encode({"version": VERSION}))

    async def _metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        text = self._counters.metrics(
            model=self._config.model,
            running=self._engine.running,
            waiting=self._engine.waiting,
            used_part=self._engine.cache_used_part,
        )
        return answer(request, text, content_type="text/plain; version=1.0.0; charset=utf-8")

    # --- what only a simulated engine has

    async def _state(self, request: web.BaseRequest) -> web.StreamResponse:
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
        return answer(request, msgspec.json.encode(state))

    async def _get_faults(self, request: web.BaseRequest) -> web.StreamResponse:
        return answer(request, msgspec.json.encode(self._board.current))

    async def _set_faults(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            faults = parse_faults(await request.read() or b"{}")
        except msgspec.MsgspecError as error:
            raise ApiError(str(error)) from None
        self._board.replace(faults)
        self._engine.faults_changed()
        return answer(request, msgspec.json.encode(faults))

    def _record(self, request: web.BaseRequest, request_id: str) -> Written:
        record = self._records.get(request_id)
        if record is None:
            raise ApiError(f"No request {request_id}.", status=404, kind="NotFoundError")
        return answer(request, msgspec.json.encode(record))

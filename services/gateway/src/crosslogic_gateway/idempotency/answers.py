"""Answers requests that carry an `Idempotency-Key`."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry, Counter

from crosslogic_common.errors import CodedError, ErrorCode, to_openai_body
from crosslogic_common.logs import get_logger
from crosslogic_gateway.engine_errors import error_event
from crosslogic_gateway.http import RATE_LIMITS, SHOWN_REQUEST_ID, answer_headers
from crosslogic_gateway.idempotency.domain import (
    DEGRADED_HEADER,
    IDEMPOTENCY_HEADER,
    REPLAYED_HEADER,
    Head,
    checked_key,
    names_of,
    other_body,
)
from crosslogic_gateway.idempotency.ports import AnswerStore, Run
from crosslogic_gateway.idempotency.recording import MemoryBudget, Recording
from crosslogic_gateway.idempotency.runs import Runs, Source

_OF_ONE_CONNECTION = frozenset(
    {"connection", "content-length", "date", "keep-alive", "transfer-encoding", "x-request-id"}
)
_OF_ONE_MOMENT = ("x-ratelimit-", "access-control-")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyLimits:
    """What a worker spends on it."""

    max_answer_bytes: int = 8 * 1024 * 1024
    """The largest answer that is kept."""
    max_memory_bytes: int = 256 * 1024 * 1024
    """Of all answers under way, and of those that Redis did not take."""
    max_runs: int = 4_096
    """Keyed requests at a time."""
    body_timeout_s: float = 30.0
    """How long a body may take."""
    stall_timeout_s: float = 60.0
    """How long a client may take nothing."""
    local_keep_s: float = 86_400.0
    """How long an answer stays that Redis did not take."""


class Idempotency:
    """Carries a request out once for each key and gives every repeat the same answer.

    The first request runs on its own, away from the client that sent it: a client that leaves and comes back with its
    key finds its answer, and pays once.
    """

    def __init__(
        self, *, store: AnswerStore, secret: bytes, limits: IdempotencyLimits, registry: CollectorRegistry
    ) -> None:
        """`secret` names keys and bodies in Redis, so that Redis tells nobody either."""
        self._secret = secret
        self._limits = limits
        self._memory = MemoryBudget(limits.max_memory_bytes)
        self._runs = Runs(store)
        self._under_way: dict[str, Source] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: OrderedDict[str, tuple[Source, float]] = OrderedDict()
        self._log = get_logger(__name__)
        requests = Counter(
            "crosslogic_idempotent_requests",
            "Requests with an Idempotency-Key, by what became of them.",
            ["outcome"],
            registry=registry,
        )
        self._counted: Mapping[str, Counter] = {
            outcome: requests.labels(outcome) for outcome in ("first", "joined", "replayed", "refused", "degraded")
        }

    def __len__(self) -> int:
        """Requests under way."""
        return len(self._under_way)

    async def answer(self, request: web.Request, *, scope: str, run: Run) -> web.StreamResponse:
        """The answer to a request of `scope` (whose key it is) that `run` would carry out.

        Raises INVALID_ARGUMENT (no proper key), CONFLICT (the key stands for another request, or the answer was too
        large to be kept), OVERLOADED, and whatever the request itself fails with.
        """
        key = checked_key(request.headers[IDEMPOTENCY_HEADER])
        body = await self._body(request)
        names = names_of(self._secret, scope=scope, key=key, method=request.method, path=request.path_qs, body=body)
        source = self._known(names.entry)
        if source is not None:
            if source.names.fingerprint != names.fingerprint:
                self._counted["refused"].inc()
                raise other_body()
            return await self._give(request, source, repeat=True)
        if len(self._under_way) >= self._limits.max_runs:
            raise CodedError(ErrorCode.OVERLOADED, private="too many keyed requests", retry_after_s=1.0)
        recording = Recording(max_bytes=self._limits.max_answer_bytes, memory=self._memory)
        source = self._under_way[names.entry] = Source(names, scope, recording)
        task = asyncio.create_task(self._fill(source, request, body, run), name="idempotent request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await self._give(request, source, repeat=False)

    async def drain(self, grace_s: float) -> None:
        """Requests whose client left have `grace_s` seconds to finish; what is left then is given up."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # --- what stands behind a key

    def _known(self, entry: str) -> Source | None:
        source = self._under_way.get(entry)
        if source is not None:
            return source
        kept = self._kept.get(entry)
        return None if kept is None or kept[1] <= asyncio.get_running_loop().time() else kept[0]

    async def _fill(self, source: Source, request: web.Request, body: bytes, run: Run) -> None:
        recording = source.recording
        try:
            await self._runs.fill(source, request, body, run)
        finally:
            del self._under_way[source.names.entry]
            if source.origin == "first" and recording.complete and recording.kept and not source.kept_in_redis:
                self._keep(source)
            else:
                recording.close()

    def _keep(self, source: Source) -> None:
        """Keeps an answer here that Redis did not take. The oldest make room."""
        now = asyncio.get_running_loop().time()
        self._kept[source.names.entry] = (source, now + self._limits.local_keep_s)
        while self._kept:
            oldest, (first, until) = next(iter(self._kept.items()))
            if (
                until > now
                and len(self._kept) <= self._limits.max_runs
                and self._memory.used * 2 <= self._limits.max_memory_bytes
            ):
                return
            del self._kept[oldest]
            first.recording.close()

    # --- what a client is given

    async def _give(self, request: web.Request, source: Source, *, repeat: bool) -> web.StreamResponse:
        recording = source.recording
        reader = recording.join()
        late = recording.ended
        try:
            while recording.head is None:
                if recording.ended:
                    self._counted["refused"].inc()
                    request[RATE_LIMITS] = source.rate_limits
                    raise _again(recording.error)
                await recording.changed(reader)
            outcome = source.origin if not repeat else "replayed" if late else "joined"
            self._counted["degraded" if source.degraded else outcome].inc()
            headers = _headers(request, recording.head, first=outcome == "first")
            if source.degraded:
                headers[DEGRADED_HEADER] = "degraded"
            if any(name.lower() == "content-length" for name, _ in recording.head.headers):
                return await self._whole(recording, reader, headers)
            return await self._stream(request, recording, reader, headers)
        finally:
            recording.leave(reader)

    async def _whole(self, recording: Recording, reader: int, headers: CIMultiDict[str]) -> web.StreamResponse:
        assert recording.head is not None  # noqa: S101  # the caller waited for it
        parts: list[bytes] = []
        while True:
            parts += recording.take(reader)
            if recording.ended:
                break
            await recording.changed(reader)
        parts += recording.take(reader)
        if recording.error is not None:
            raise _again(recording.error)
        return web.Response(status=recording.head.status, body=b"".join(parts), headers=headers)

    async def _stream(
        self, request: web.Request, recording: Recording, reader: int, headers: CIMultiDict[str]
    ) -> web.StreamResponse:
        assert recording.head is not None  # noqa: S101  # the caller waited for it
        response = web.StreamResponse(status=recording.head.status, headers=headers)
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        await response.prepare(request)
        while True:
            parts = recording.take(reader)
            if parts:
                await self._write(request, response, b"".join(parts))
            elif recording.ended:
                break
            else:
                await recording.changed(reader)
        if recording.error is not None:
            error = _again(recording.error)
            await response.write(error_event(error, request[SHOWN_REQUEST_ID], to_openai_body))
        if not recording.complete:
            response.force_close()
        return response

    async def _write(self, request: web.Request, response: web.StreamResponse, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._limits.stall_timeout_s):
                await response.write(data)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client takes nothing") from None

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                return await request.read()
        except TimeoutError:
            raise CodedError(ErrorCode.REQUEST_TIMEOUT) from None


def _headers(request: web.Request, head: Head, *, first: bool) -> CIMultiDict[str]:
    """The answer's headers for this client: its own connection's and ids, the rest as the first answer had it."""
    content_type = next((value for name, value in head.headers if name.lower() == "content-type"), "text/plain")
    headers = answer_headers(request, content_type)
    own = {name.lower() for name in headers} - {"x-crosslogic-request-id"} | _OF_ONE_CONNECTION
    for name, value in head.headers:
        lowered = name.lower()
        if lowered not in own and (first or not lowered.startswith(_OF_ONE_MOMENT)):
            headers[name] = value
    if not first:
        headers[REPLAYED_HEADER] = "true"
    return headers


def _again(error: BaseException | None) -> CodedError:
    """One request's failure, for one more client."""
    if isinstance(error, CodedError):
        return CodedError(
            error.code, error.public, private=error.private, retry_after_s=error.retry_after_s, param=error.param
        )
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return CodedError(ErrorCode.REQUEST_TOO_LARGE)
    return CodedError(ErrorCode.INTERNAL, private=repr(error))

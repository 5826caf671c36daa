"""What every RPC goes through: the caller's rule, the request's id, metrics, a span, a deadline, errors."""

import asyncio
import contextlib
import inspect
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from opentelemetry import propagate, trace

from crosslogic_common.errors import CodedError, ErrorCode, grpc_status, to_metadata
from crosslogic_common.logs import get_logger
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import Context, Identity, peer_identity, tls_version

REQUEST_ID_METADATA = "x-request-id"
DEFAULT_DEADLINE_S = 30.0
"""Of a unary RPC whose caller set none."""
_MAX_REQUEST_ID_CHARS = 128
_LAST_WORDS_S = 0.1
_OUR_FAULT = frozenset({ErrorCode.INTERNAL, ErrorCode.ENGINE_ERROR})

# Quoted: generic in the stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each handler once; costs nothing for each message of a stream."""

    def __init__(
        self,
        *,
        rules: Mapping[str, frozenset[str]],
        metrics: Metrics,
        tracer: trace.Tracer | None,
        stopping: asyncio.Event,
        ended_by_stopping: frozenset[str] = frozenset(),
    ) -> None:
        """`rules` name who may call what: see grpc_server.CallerRules.

        Streams of the methods in `ended_by_stopping` end shortly after `stopping` is set: those of servicers that
        cannot be told to.
        """
        self._rules = rules
        self._metrics = metrics
        self._tracer = tracer
        self._stopping = stopping
        self._ended_by_stopping = ended_by_stopping
        self._log = get_logger(__name__)
        # One entry a method that is served: bounded by the servicers added.
        self._wrapped: dict[str, Handler] = {}
        self._running: Counter[str] = Counter()

    def running(self) -> dict[str, int]:
        """How many RPCs of each method run now."""
        return {method: count for method, count in self._running.items() if count}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """The method's handler, wrapped. None where nobody serves the method, which gRPC answers as UNIMPLEMENTED."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Handler:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), **codec)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._streaming(method, handler.unary_stream), **codec)
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._unary(method, handler.stream_unary), **codec)
        return grpc.stream_stream_rpc_method_handler(self._streaming(method, handler.stream_stream), **codec)

    def _unary(self, method: str, behaviour: Behaviour) -> Behaviour:
        timed = self._metrics.rpc_seconds.labels(method)

        async def handle(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            try:
                with self._around(method, context):
                    if context.time_remaining() is None:
                        async with asyncio.timeout(DEFAULT_DEADLINE_S):
                            return await behaviour(request, context)
                    return await behaviour(request, context)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a clean status
                await self._abort(method, context, error)
            finally:
                timed.observe(time.perf_counter() - started)

        return handle

    def _streaming(self, method: str, behaviour: Callable[[Any, Context], Any]) -> Behaviour:
        yields = inspect.isasyncgenfunction(behaviour)

        async def run(request: Any, context: Context) -> None:
            # The client learns that it is connected, before there is anything to say.
            await context.send_initial_metadata(())
            if yields:
                await _write_all(behaviour(request, context), context)
            else:
                await behaviour(request, context)

        async def handle(request: Any, context: Context) -> None:
            try:
                with self._around(method, context):
                    if method in self._ended_by_stopping:
                        await self._until_stopping(run(request, context))
                    else:
                        await run(request, context)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a clean status
                await self._abort(method, context, error)

        return handle

    @contextlib.contextmanager
    def _around(self, method: str, context: Context) -> Iterator[None]:
        self._authorise(method, context)
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id = metadata.get(REQUEST_ID_METADATA)
        bound = {"request_id": request_id[:_MAX_REQUEST_ID_CHARS]} if request_id else {}
        self._running[method] += 1
        try:
            with structlog.contextvars.bound_contextvars(**bound), self._span(method, metadata):
                yield
            self._count(method, "OK")
        except asyncio.CancelledError:
            # The caller went away, its deadline passed, or this server's grace is over. gRPC ends the RPC.
            self._count(method, "CANCELLED")
            raise
        finally:
            self._running[method] -= 1

    def _authorise(self, method: str, context: Context) -> None:
        if tls_version(context) != "TLSv1.3":
            raise CodedError(ErrorCode.PERMISSION_DENIED, private=f"{tls_version(context)!r} is not TLS 1.3")
        caller = peer_identity(context)
        if not _allowed(self._rules.get(method, frozenset()), caller):
            raise CodedError(ErrorCode.PERMISSION_DENIED, private=f"{caller} may not call {method}")

    def _span(self, method: str, metadata: dict[str, str]) -> contextlib.AbstractContextManager[object]:
        if self._tracer is None:
            return contextlib.nullcontext()
        parent = propagate.extract(metadata)
        return self._tracer.start_as_current_span(method, context=parent, kind=trace.SpanKind.SERVER)

    async def _until_stopping(self, running: Any) -> None:
        work = asyncio.create_task(running)
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                # Health watchers are told NOT_SERVING before their stream ends.
                await asyncio.wait((work,), timeout=_LAST_WORDS_S)
            if not work.done():
                raise CodedError(ErrorCode.UNAVAILABLE)
            work.result()
        finally:
            stopping.cancel()
            work.cancel()

    def _count(self, method: str, status: str) -> None:
        self._metrics.rpcs.labels(method, status).inc()

    async def _abort(self, method: str, context: Context, error: Exception) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, TimeoutError):
            error = CodedError(ErrorCode.TIMEOUT, private="the RPC's deadline passed")
        if isinstance(error, ExceptionGroup):
            error = _first_coded(error) or error
        if not isinstance(error, CodedError):
            self._log.error("rpc failed", method=method, exc_info=error)
            error = CodedError(ErrorCode.INTERNAL)
        elif error.private:
            log = self._log.error if error.code in _OUR_FAULT else self._log.info
            log("rpc refused", method=method, code=str(error.code), reason=error.private)
        status = grpc_status(error)
        self._count(method, status.name)
        await context.abort(status, error.public, to_metadata(error))


async def _write_all(answers: AsyncGenerator[Any, None], context: Context) -> None:
    # Closed here and not by the garbage collector: the generator's `finally` frees what it holds when its RPC ends.
    async with contextlib.aclosing(answers):
        async for answer in answers:
            await context.write(answer)


def _allowed(allowed: frozenset[str], caller: Identity | None) -> bool:
    if "anonymous" in allowed:
        return True
    if caller is None:
        return False
    if "certificate" in allowed:
        return True
    if caller.kind == "node":
        return "node" in allowed
    return f"service:{caller.name}" in allowed or "service:*" in allowed


def _first_coded(group: BaseExceptionGroup[BaseException]) -> CodedError | None:
    for error in group.exceptions:
        if isinstance(error, CodedError):
            return error
        if isinstance(error, BaseExceptionGroup):
            found = _first_coded(error)
            if found is not None:
                return found
    return None

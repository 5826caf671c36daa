"""What every RPC goes through: the caller's rule, the request's id, metrics, a span, a deadline, errors."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import grpc
import grpc.aio
import structlog
from opentelemetry import trace

from crosslogic_common.errors import CodedError, ErrorCode, grpc_status, to_metadata
from crosslogic_common.logs import get_logger
from crosslogic_common.metrics import Metrics
from crosslogic_common.tls import Identity, peer_identity

REQUEST_ID_METADATA = "x-request-id"
DEFAULT_DEADLINE_S = 30.0
"""Of a unary RPC whose caller set none."""

Context = grpc.aio.ServicerContext
Behaviour = Callable[[Any, Context], Awaitable[Any]]


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each handler once a call; costs nothing for each message of a stream."""

    def __init__(self, *, rules: Mapping[str, frozenset[str]], metrics: Metrics, tracer: trace.Tracer | None) -> None:
        """`rules` name who may call what: see grpc_server.CallerRules."""
        self._rules = rules
        self._metrics = metrics
        self._tracer = tracer
        self._log = get_logger(__name__)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Wraps the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
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
                    remaining_s = context.time_remaining()
                    async with asyncio.timeout(DEFAULT_DEADLINE_S if remaining_s is None else None):
                        answer = await behaviour(request, context)
                self._metrics.rpcs.labels(method, "OK").inc()
                return answer  # noqa: TRY300  # the except clauses never return
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a clean status
                await self._abort(method, context, error)
            finally:
                timed.observe(time.perf_counter() - started)

        return handle

    def _streaming(self, method: str, behaviour: Callable[[Any, Context], Any]) -> Behaviour:
        yields = inspect.isasyncgenfunction(behaviour)

        async def handle(request: Any, context: Context) -> None:
            try:
                with self._around(method, context):
                    # The client learns that it is connected, before there is anything to say.
                    await context.send_initial_metadata(())
                    if yields:
                        await _write_all(behaviour(request, context), context)
                    else:
                        await behaviour(request, context)
                self._metrics.rpcs.labels(method, "OK").inc()
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets a clean status
                await self._abort(method, context, error)

        return handle

    @contextlib.contextmanager
    def _around(self, method: str, context: Context) -> Iterator[None]:
        caller = peer_identity(context)
        if not _allowed(self._rules.get(method, frozenset()), caller):
            raise CodedError(ErrorCode.PERMISSION_DENIED, private=f"{caller} may not call {method}")
        metadata = dict(context.invocation_metadata() or ())
        request_id = metadata.get(REQUEST_ID_METADATA)
        bound = {"request_id": str(request_id)[:128]} if request_id else {}
        with structlog.contextvars.bound_contextvars(**bound):
            if self._tracer is None:
                yield
                return
            with self._tracer.start_as_current_span(method):
                yield

    async def _abort(self, method: str, context: Context, error: Exception) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, TimeoutError):
            error = CodedError(ErrorCode.TIMEOUT, private="the RPC's deadline passed")
        if isinstance(error, BaseExceptionGroup):
            error = _first_coded(error) or error
        if not isinstance(error, CodedError):
            self._log.error("rpc failed", method=method, exc_info=error)
            error = CodedError(ErrorCode.INTERNAL)
        elif error.private:
            self._log.info("rpc refused", method=method, code=error.code, reason=error.private)
        self._metrics.rpcs.labels(method, grpc_status(error).name).inc()
        await context.abort(grpc_status(error), error.public, to_metadata(error))


async def _write_all(answers: AsyncIterator[Any], context: Context) -> None:
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

"""Requests under way in this worker, so that those of a suspended tenant can be ended in the middle."""

import asyncio
import contextlib

from aiohttp import web

from crosslogic_common.errors import CodedError, ErrorCode, to_openai_body
from crosslogic_gateway.domain import Principal
from crosslogic_gateway.engine_errors import error_event
from crosslogic_gateway.http import SHOWN_REQUEST_ID, STREAM

CUT_WRITE_S = 1.0
"""How long a client may take the event that ends its stream before its connection is closed without."""


class Running:
    """Who each running request is served for. Bounded by the connections."""

    def __init__(self) -> None:
        self._principals: dict[asyncio.Task[object], Principal] = {}
        self._cut: set[asyncio.Task[object]] = set()
        self._loop = asyncio.get_running_loop()
        self.cut_total = 0
        """Requests ended in the middle since the start."""

    def __len__(self) -> int:
        """Requests under way."""
        return len(self._principals)

    def begin(self, principal: Principal) -> "asyncio.Task[object]":
        """The calling task serves a request. It must call `end` with what this returns."""
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101  # a handler runs in a task
        self._principals[task] = principal
        return task

    def end(self, task: "asyncio.Task[object]") -> None:
        """The request is over."""
        self._principals.pop(task, None)
        if self._cut:
            self._cut.discard(task)

    def cut(self, *, org_id: str = "", environment_id: str = "", api_key_id: str = "") -> int:
        """Ends the requests of the organisation, of the environment or of the key; returns how many."""
        doomed = [
            task
            for task, principal in self._principals.items()
            if principal.org_id == org_id
            or principal.environment_id == environment_id
            or principal.api_key_id == api_key_id
        ]
        for task in doomed:
            if task not in self._cut:
                self._cut.add(task)
                self.cut_total += 1
                task.cancel()
        return len(doomed)

    def was_cut(self, task: "asyncio.Task[object]") -> bool:
        """Whether it was cancelled here, and not because its client left."""
        return task in self._cut


async def end_cut(request: web.Request) -> web.StreamResponse:
    """Answers a request that was cut: a stream ends with an error event, all else is refused.

    Raises TENANT_SUSPENDED when nothing was sent yet.
    """
    error = CodedError(ErrorCode.TENANT_SUSPENDED)
    response: web.StreamResponse | None = request.get(STREAM)
    if response is None:
        raise error
    try:
        async with asyncio.timeout(CUT_WRITE_S):
            await response.write(error_event(error, request[SHOWN_REQUEST_ID], to_openai_body))
    except (TimeoutError, ConnectionError):
        # It does not read, or it left.
        if request.transport is not None:
            with contextlib.suppress(OSError):
                request.transport.abort()
    response.force_close()
    return response

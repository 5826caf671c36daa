"""Server-sent events of the admin API."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from aiohttp import web

from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_gateway.http import answer_headers

_BEAT = b": still there\n\n"


async def send_events(
    request: web.Request,
    events: AsyncGenerator[msgspec.Struct, None],
    *,
    beat_s: float = 15.0,
    patience_s: float = 30.0,
) -> web.StreamResponse:
    """Sends each event as it comes. What fails before the first is an error answer; later, the stream ends: ask again.

    After `beat_s` of silence a comment is sent: proxies keep the connection, and a client that is gone is noticed. One
    that reads nothing for `patience_s` is cut off, so that it holds no place that others could have.
    """
    async with aclosing(events):
        event = await anext(events, None)
        headers = {
            **answer_headers(request, "text/event-stream"),
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
        }
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            while event is not None:
                await _write(response, b"data: " + msgspec.json.encode(event) + b"\n\n", patience_s)
                event = await _following(events, response, beat_s, patience_s)
            await response.write_eof()
        except CodedError as error:
            get_logger(__name__).info("event stream ended", code=error.code, reason=error.private)
            response.force_close()
        except TimeoutError:
            get_logger(__name__).info("event stream not read", seconds=patience_s)
            if request.transport is not None:
                request.transport.abort()
        return response


async def _following(
    events: AsyncGenerator[msgspec.Struct, None], response: web.StreamResponse, beat_s: float, patience_s: float
) -> msgspec.Struct | None:
    """The next event, and signs of life until it comes. None: there is none."""

    async def following() -> msgspec.Struct | None:
        return await anext(events, None)

    waiting = asyncio.create_task(following())
    try:
        while not (await asyncio.wait({waiting}, timeout=beat_s))[0]:
            await _write(response, _BEAT, patience_s)
        return waiting.result()
    finally:
        if waiting.cancel():
            await asyncio.wait({waiting})


async def _write(response: web.StreamResponse, block: bytes, patience_s: float) -> None:
    async with asyncio.timeout(patience_s):
        await response.write(block)

"""An engine in the test's own process that behaves like vLLM, byte by byte, or misbehaves as the request asks.

A request's `x` object steers it: `delay_ms` between tokens, `pad` bytes of text a token, `fault` one of `cut` (the
connection closes inside a chunk), `garbage`, `error_event`, `quiet_end` (a clean end without the last events), `hang`,
each after `after` tokens; `status` refuses.
"""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class SeenRequest:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    tokens_sent: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """The client closed before the answer was complete."""
    first_token: asyncio.Event = field(default_factory=asyncio.Event)


class FakeEngine:
    def __init__(self, *, model: str = "engine-model", port: int = 0) -> None:
        self.model = model
        self.port = port
        self.well = True
        self.seen: dict[str, SeenRequest] = {}
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        if method == "GET":
            return self._get(path, writer)
        body = json.loads(raw)
        seen = SeenRequest(path, headers, body)
        self.seen[headers.get("x-request-id", "")] = seen
        # Anything more from the client before the answer is out can only be its end.
        gone = asyncio.create_task(reader.read(1))
        answer = asyncio.create_task(self._answer(seen, writer))
        try:
            await asyncio.wait((gone, answer), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                seen.hung_up.set()
                return False
            return answer.result() and not gone.done()
        finally:
            gone.cancel()
            answer.cancel()
            await asyncio.gather(gone, answer, return_exceptions=True)

    def _get(self, path: str, writer: asyncio.StreamWriter) -> bool:
        answers: dict[str, Any] = {
            "/health": {},
            "/version": {"version": "0.32.0"},
            "/v1/models": {"data": [{"id": self.model, "max_model_len": 4096}]},
        }
        if path == "/metrics":
            text = 'vllm:num_requests_running{engine="0"} 2.0\nvllm:generation_tokens_total{engine="0"} 1e3\n'
            _plain(writer, 200, text.encode(), "text/plain")
        elif path in answers and (self.well or path != "/health"):
            _plain(writer, 200, json.dumps(answers[path]).encode())
        else:
            offered = path in ("/v1/chat/completions", "/v1/completions")
            _plain(writer, 503 if path == "/health" else 405 if offered else 404, b"{}")
        return True

    async def _answer(self, seen: SeenRequest, writer: asyncio.StreamWriter) -> bool:
        steer = seen.body.get("x", {})
        if "status" in steer:
            error = {"error": {"message": "no", "type": "BadRequestError", "param": None, "code": steer["status"]}}
            _plain(writer, steer["status"], json.dumps(error).encode())
            return True
        if seen.path in ("/v1/messages", "/v1/responses"):
            return await self._typed(seen, writer)
        if not seen.body.get("stream"):
            return await self._whole(seen, writer, steer)
        return await self._stream(seen, writer, steer)

    async def _whole(self, seen: SeenRequest, writer: asyncio.StreamWriter, steer: dict[str, Any]) -> bool:
        count = seen.body.get("max_tokens", 4)
        await asyncio.sleep(steer.get("delay_ms", 0) / 1000 * count)
        text = "x" * steer.get("pad", 1) * count
        usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}
        answer = {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": seen.body["model"],
            "choices": [{"index": 0, "text": text, "finish_reason": "length"}],
            "usage": usage,
        }
        seen.tokens_sent = count
        _plain(writer, 200, json.dumps(answer).encode())
        await writer.drain()
        return True

    async def _stream(self, seen: SeenRequest, writer: asyncio.StreamWriter, steer: dict[str, Any]) -> bool:
        body = seen.body
        chat = "chat" in seen.path
        fault, after = steer.get("fault"), steer.get("after", 3)
        options = body.get("stream_options") or {}
        if fault == "hang" and after == 0:
            await asyncio.Event().wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if chat:
            _chunk(writer, _event(body, {"delta": {"role": "assistant", "content": ""}}, 0, options, (1, 2, 3)))
        total = body.get("max_tokens", 4)
        for number in range(1, total + 1):
            await asyncio.sleep(steer.get("delay_ms", 0) / 1000)
            text = "y" * steer.get("pad", 1)
            if fault and number == after + 1:
                if fault == "garbage":
                    _chunk(writer, b"data: {nonsense\n\n")
                elif fault == "error_event":
                    _chunk(writer, b'data: {"error": {"message": "EngineCore died at 10.0.0.1:1", "code": 500}}\n\n')
                    _chunk(writer, b"data: [DONE]\n\n")
                    _chunk(writer, b"")
                    return True
                elif fault == "cut":
                    writer.write(b'400\r\ndata: {"id":')
                    return False
                elif fault == "quiet_end":
                    _chunk(writer, b"")
                    return True
                else:
                    await asyncio.Event().wait()
            choice: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
            choice["finish_reason"] = "length" if number == total else None
            if body.get("return_token_ids"):
                choice["token_ids"] = [100 + number]
            ids = (1, 2, 3) if number == 1 and not chat else ()
            _chunk(writer, _event(body, choice, number, options, ids, chat=chat))
            seen.tokens_sent = number
            seen.first_token.set()
            await writer.drain()
        if options.get("include_usage"):
            _chunk(writer, _event(body, None, total, options))
        _chunk(writer, b"data: [DONE]\n\n")
        _chunk(writer, b"")
        await writer.drain()
        return True

    async def _typed(self, seen: SeenRequest, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {"model": seen.body["model"], "usage": {"input_tokens": 7}}},
            {"type": "content_block_delta", "delta": {"text": "hi"}},
            {"type": "message_delta", "usage": {"output_tokens": 9}},
            {"type": "message_stop"},
        ]
        for event in events[: seen.body.get("x", {}).get("after", 4)]:
            _chunk(writer, f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        _chunk(writer, b"")
        return True


def _event(
    body: dict[str, Any],
    choice: dict[str, Any] | None,
    count: int,
    options: dict[str, Any],
    prompt_ids: tuple[int, ...] = (),
    *,
    chat: bool = True,
) -> bytes:
    event: dict[str, Any] = {"id": "cmpl-1", "model": body["model"]}
    event["choices"] = [] if choice is None else [{"index": 0, **choice}]
    if prompt_ids and body.get("return_token_ids"):
        (event if chat else event["choices"][0])["prompt_token_ids"] = list(prompt_ids)
    if choice is None or options.get("continuous_usage_stats"):
        event["usage"] = {"prompt_tokens": 3, "total_tokens": 3 + count, "completion_tokens": count}
    return f"data: {json.dumps(event)}\n\n".encode()


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _plain(writer: asyncio.StreamWriter, status: int, body: bytes, content_type: str = "application/json") -> None:
    writer.write(
        f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


async def _serve(port: int) -> None:
    async with FakeEngine(port=port):
        print("fake engine serves", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))

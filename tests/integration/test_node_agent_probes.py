"""An agent's own questions to its engine stay out of the way of requests."""

import asyncio

from crosslogic_node_agent.domain import EngineAddress
from crosslogic_node_agent.engine_api import EngineApi
from crosslogic_node_agent.engine_connection import EnginePool

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_request_never_gets_the_connection_that_a_probe_is_about_to_close() -> None:
    """It would wait for an answer that cannot come until its time is over: a client waited 60 s for that."""
    asked = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    pool = EnginePool(EngineAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1]))
    async with server:
        probe = asyncio.create_task(EngineApi(pool).healthy(timeout_s=30.0))
        while not probe.done():
            # Every turn of the loop in which a request could come.
            assert pool.idle_connection() is None
            await asyncio.sleep(0)
        await probe
        assert asked.is_set()
    pool.close()

"""Runs one simulated engine: `python -m crosslogic_sim_engine --port 8000 --model NAME`."""

import asyncio
import contextlib
import gc
import signal
import sys

import uvloop

from crosslogic_sim_engine.app import SimApp
from crosslogic_sim_engine.config import SimConfig, parse_config
from crosslogic_sim_engine.wire import Connection

BACKLOG = 1024
STOP_GRACE_S = 1.0


async def serve(config: SimConfig, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Prints one line with the address once connections are accepted."""
    app = SimApp(config)
    loop = asyncio.get_running_loop()
    connections: set[Connection] = set()

    def connect() -> Connection:
        return Connection(app.handle, connections)

    await asyncio.sleep(config.start_delay_s)
    if config.uds is not None:
        server = await loop.create_unix_server(connect, config.uds, backlog=BACKLOG)
        print(f"listening on unix:{config.uds}", flush=True)  # noqa: T201
    else:
        server = await loop.create_server(connect, config.host, config.port, backlog=BACKLOG, reuse_address=True)
        port = server.sockets[0].getsockname()[1]
        print(f"listening on http://{config.host}:{port}", flush=True)  # noqa: T201
    # What lives now lives to the end: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    await stop.wait()
    server.close()
    app.stop()
    for connection in list(connections):
        connection.close()
    until = loop.time() + STOP_GRACE_S
    while connections and loop.time() < until:
        await asyncio.sleep(0.01)


async def _run(config: SimConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(config, stop)


def main() -> int:
    """The command line."""
    config = parse_config()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_run(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs one simulated engine: `python -m crosslogic_sim_engine --port 8000 --model NAME`."""

import asyncio
import contextlib
import gc
import signal
import sys
from typing import Any

import uvloop
from aiohttp import web

from crosslogic_sim_engine.app import SimApp
from crosslogic_sim_engine.config import SimConfig, parse_config

MAX_BODY_BYTES = 64 * 1024 * 1024
STOP_GRACE_S = 1.0


async def serve(config: SimConfig, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. Prints one line with the address once connections are accepted."""
    app = SimApp(config)

    loop = asyncio.get_running_loop()

    def request_factory(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)

    # Without cancellation a handler would not learn that its client has gone.
    server = web.Server(
        app.handle,
        request_factory=request_factory,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=600,
    )
    await asyncio.sleep(config.start_delay_s)
    runner = web.ServerRunner(server, shutdown_timeout=STOP_GRACE_S)
    await runner.setup()
    if config.uds is not None:
        await web.UnixSite(runner, config.uds).start()
        print(f"listening on unix:{config.uds}", flush=True)  # noqa: T201
    else:
        await web.TCPSite(runner, config.host, config.port or 0, backlog=1024, reuse_address=True).start()
        host, port = runner.addresses[0][:2]
        print(f"listening on http://{host}:{port}", flush=True)  # noqa: T201
    # What lives now lives to the end: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    try:
        await stop.wait()
    finally:
        app.stop()
        await runner.cleanup()


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

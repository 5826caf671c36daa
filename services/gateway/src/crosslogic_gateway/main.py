"""Starts the gateway: one worker in this process, or several that share the port by SO_REUSEPORT."""

import asyncio
import ctypes
import os
import signal
import sys

from crosslogic_common.grpc_server import read_settings, run_service
from crosslogic_common.logs import configure_logging, get_logger
from crosslogic_gateway.settings import GatewaySettings
from crosslogic_gateway.worker import serve

WORKER_VARIABLE = "CROSSLOGIC_WORKER_INDEX"
_PR_SET_PDEATHSIG = 1


def metrics_listen(settings: GatewaySettings, index: int) -> str:
    """Where a worker serves its metrics: the configured port and the ones after it."""
    if not settings.metrics_listen:
        return ""
    host, _, port = settings.metrics_listen.rpartition(":")
    return f"{host}:{int(port) + index}"


async def supervise(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Runs the workers, starts those again that die, and stops all when told to."""
    log = get_logger(__name__)

    async def keep(index: int) -> None:
        while not stop.is_set():
            environ = {**os.environ, WORKER_VARIABLE: str(index)}
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", "crosslogic_gateway", env=environ)
            ended = asyncio.create_task(process.wait())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if stop.is_set() and process.returncode is None:
                process.terminate()
            code = await ended
            if not stop.is_set():
                log.error("worker ended, starting it again", worker=index, exit_code=code)
                await asyncio.sleep(1.0)

    await asyncio.gather(*(keep(index) for index in range(settings.workers)))


def end_with_the_supervisor() -> None:
    """A worker whose supervisor is killed finishes what it has and ends: nobody would ever stop it otherwise."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> None:
    """The process."""
    settings = read_settings(GatewaySettings, os.environ)
    configure_logging("gateway", settings.log_level)
    index = os.environ.get(WORKER_VARIABLE)
    if settings.workers > 1 and index is None:
        run_service(lambda stop: supervise(settings, stop))
    else:
        number = int(index or 0)
        if index is not None:
            end_with_the_supervisor()
        run_service(lambda stop: serve(settings, metrics_listen(settings, number), stop, index=number))

"""A told registry as a process of its own: certificate, key and CA are its arguments, its port is what it prints."""

import asyncio
import sys
from pathlib import Path

from crosslogic_common.logs import configure_logging
from crosslogic_common.process import run_service
from crosslogic_common.tls import TlsFiles
from tests.fakes.registry_server import ToldRegistry


async def serve(stop: asyncio.Event) -> None:
    """Serves until it is told to stop."""
    registry = ToldRegistry(TlsFiles(*map(Path, sys.argv[1:4])))
    async with registry.server.serving():
        print(registry.server.port, flush=True)
        await stop.wait()


if __name__ == "__main__":
    configure_logging("registry")
    run_service(serve)

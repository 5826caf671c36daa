"""A service as a process: its settings read, its signals heard, its end told in one line."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import uvloop

from crosslogic_common.errors import CodedError
from crosslogic_common.settings import Settings, SettingsError
from crosslogic_common.tls import TLS13_ENVIRONMENT

SettingsOf = TypeVar("SettingsOf", bound=Settings)

PROCESS_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {**TLS13_ENVIRONMENT, "GRPC_ENABLE_FORK_SUPPORT": "0", "PYTHONUNBUFFERED": "1"}
)
"""What every process is started with: images, the agent's installer and `make up` set it.

uvloop forks to start a program, and gRPC's fork handlers, which are on unless the variable says otherwise when gRPC is
imported, now and then abort such a child before it becomes that program.
"""


class StartError(Exception):
    """The process cannot start; the message says what to change."""


def run_service(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs a service until SIGTERM or SIGINT sets the event it is given; the process's exit code says how it went.

    A second signal ends the process at once, for whoever cannot wait for the shutdown's grace.
    """

    async def until_signalled() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal(number: int) -> None:
            if stop.is_set():
                os._exit(128 + number)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        await main(stop)

    try:
        uvloop.run(until_signalled())
    except StartError as error:
        sys.exit(str(error))
    except CodedError as error:
        sys.exit(f"The service ended: {error}")


def read_settings(cls: type[SettingsOf], environ: Mapping[str, str]) -> SettingsOf:
    """A service's settings, or the end of the process with every problem on a line of its own."""
    try:
        return cls.from_env(environ)
    except SettingsError as error:
        sys.exit(f"The settings are not complete:\n{error}")

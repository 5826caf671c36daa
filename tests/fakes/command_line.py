"""The command line against an admin API that this test serves."""

import asyncio
from typing import Any, Self

from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner, Result

from crosslogic_cli.main import app
from tests.fakes.admin_neighbours import TOKEN


class CommandLine:
    """Runs commands in a thread, beside the server's loop. A context manager."""

    def __init__(self, served: web.Application) -> None:
        self._server = TestServer(served)
        self.environ: dict[str, str] = {}
        """Beside the address and the token."""
        self.printed = ""
        """By the last command, also by one that failed."""

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def run(self, *arguments: str, fails: bool = False) -> Any:
        """What a command that succeeds printed; of one that `fails`, what it raised."""
        environ = {
            "CROSSLOGIC_BASE_URL": str(self._server.make_url("/")),
            "CROSSLOGIC_ADMIN_TOKEN": TOKEN,
            "NO_PROXY": "*",
            "COLUMNS": "300",
            **self.environ,
        }
        done: Result = await asyncio.to_thread(CliRunner(env=environ).invoke, app, list(arguments))
        self.printed = done.stdout
        if fails:
            assert done.exception is not None, done.output
            return done.exception
        if done.exception is not None:
            raise done.exception
        return done.stdout

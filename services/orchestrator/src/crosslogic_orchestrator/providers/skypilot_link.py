"""The line to the worker process in SkyPilot's environment; its protocol is described in the worker's wire.py."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from crosslogic_common.logs import get_logger
from crosslogic_orchestrator.ports import ProviderError

PROTOCOL = 1
MAX_ASKED = 256
_START_S = 120.0
_ANSWER_S = 300.0
_MAX_LINE = 4_000_000
_STOP_S = 5.0


class WorkerLink:
    """Asks the worker, which is started when it is first needed and again after it died."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], *, answer_s: float = _ANSWER_S) -> None:
        """`answer_s` is how long one answer may take, in seconds."""
        self._command = command
        self._environ = environ
        self._answer_s = answer_s
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._log = get_logger(__name__)

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The worker's answer. Raises ProviderError; temporary when the worker is away, hangs or dies meanwhile."""
        if len(self._asked) >= MAX_ASKED:
            raise ProviderError("Too much is asked of SkyPilot at once.", temporary=True)
        try:
            async with asyncio.timeout(self._answer_s):
                process = await self._started()
                number = next(self._numbers)
                answer = self._asked[number] = asyncio.get_running_loop().create_future()
                try:
                    await self._say(process, {"id": number, "method": method, "params": params})
                    return dict(await answer)
                finally:
                    del self._asked[number]
        except TimeoutError:
            raise ProviderError(f"SkyPilot did not answer within {self._answer_s:g} s.", temporary=True) from None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ends the worker when the block is left."""
        try:
            yield
        finally:
            await self._stop()

    async def _say(self, process: asyncio.subprocess.Process, message: Mapping[str, Any]) -> None:
        assert process.stdin is not None  # noqa: S101  # it was asked for
        # Whoever reads finds that the worker is gone, and says so. RuntimeError is uvloop's word for it.
        with contextlib.suppress(ConnectionError, RuntimeError):
            process.stdin.write(json.dumps(message).encode() + b"\n")
            await process.stdin.drain()

    async def _started(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._process is not None and self._reading is not None and not self._reading.done():
                return self._process
            await self._stop()
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    env=dict(self._environ),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # What SkyPilot prints may repeat a request: it is not kept.
                    stderr=asyncio.subprocess.DEVNULL,
                    limit=_MAX_LINE,
                )
            except OSError as error:
                raise ProviderError(f"SkyPilot's worker cannot be started: {error.strerror}.", temporary=True) from None
            self._process = process
            hello = await self._hello(process)
            self._log.info("skypilot worker started", pid=process.pid, skypilot=hello.get("skypilot"))
            self._reading = asyncio.create_task(self._read(process), name="skypilot worker")
            return process

    async def _hello(self, process: asyncio.subprocess.Process) -> Mapping[str, Any]:
        assert process.stdout is not None  # noqa: S101  # it was asked for
        try:
            async with asyncio.timeout(_START_S):
                hello = _message(await process.stdout.readline())
        except (TimeoutError, ValueError):
            hello = {}
        if hello.get("protocol") != PROTOCOL:
            await self._stop()
            raise ProviderError(
                f"SkyPilot's worker does not speak protocol {PROTOCOL}: is it installed where "
                "CROSSLOGIC_SKYPILOT_WORKER says, in this release's version?",
                temporary=True,
            )
        return hello

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  # it was asked for
        try:
            while line := await process.stdout.readline():
                message = _message(line)
                answer = self._asked.get(message.get("id", 0))
                if answer is None or answer.done():
                    continue
                error = message.get("error")
                if error is None:
                    answer.set_result(message.get("result") or {})
                else:
                    refusal = ProviderError(str(error.get("message")), temporary=bool(error.get("temporary")))
                    answer.set_exception(refusal)
        except ValueError:
            self._log.warning("skypilot worker spoke nonsense", pid=process.pid)
        finally:
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(ProviderError("SkyPilot's worker ended.", temporary=True))

    async def _stop(self) -> None:
        reading, self._reading = self._reading, None
        process, self._process = self._process, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _message(line: bytes) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004  # as json says it
    return found

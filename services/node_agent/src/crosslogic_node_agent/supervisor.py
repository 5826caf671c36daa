"""Keeps the engine running: starts it, waits until it is well, notices when it dies or hangs, and starts it again."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from crosslogic_common.batched import Backoff
from crosslogic_common.logs import get_logger
from crosslogic_node_agent.answer_lessons import learn_answers
from crosslogic_node_agent.assembly import AnswerTemplates
from crosslogic_node_agent.domain import Capacity, EngineFacts, EngineState, EngineStatus
from crosslogic_node_agent.engine_api import EngineApi, EngineFailureError
from crosslogic_node_agent.engine_process import EngineCommand, EngineProcess, kill_marked, last_lines

STEADY_S = 60.0
"""An engine that ran for so long is started again at once when it dies; one that dies early, ever more slowly."""


Prepare = Callable[[EngineCommand], Awaitable[EngineCommand]]
"""What must be there before the engine can start; the command that then starts it. Raises PreparationError."""


class PreparationError(Exception):
    """The engine cannot be started yet; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the engine may take, in seconds."""

    start_s: float = 600.0
    """From its start until it is well."""
    check_interval_s: float = 2.0
    check_timeout_s: float = 5.0
    hang_s: float = 60.0
    """Unwell for so long although its process runs: it is killed."""
    absent_interval_s: float = 0.25
    """Between two looks at an engine of somebody else's that does not answer."""
    stop_s: float = 10.0
    """From SIGTERM to SIGKILL."""


class Supervisor:
    """The engine's life. `state`, `facts` and `capacity` are the latest; `changed` is set when the state is new."""

    def __init__(
        self,
        *,
        model: str,
        command: EngineCommand | None,
        api: EngineApi,
        patience: Patience,
        measure: Callable[[EngineFacts], Awaitable[Capacity]],
        templates: AnswerTemplates,
        on_restart: Callable[[], None],
        on_loaded: Callable[[float], None] = lambda _seconds: None,
        backoff: Backoff | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        """`model` is the catalogue's name of what the engine serves.

        Without a `command` the engine is started and stopped by somebody else and only watched. `on_loaded` is told the
        seconds from an engine's start until it was well.
        """
        self._model = model
        self._command = command
        self._api = api
        self._patience = patience
        self._measure = measure
        self._templates = templates
        self._on_restart = on_restart
        self._on_loaded = on_loaded
        self._prepare = prepare
        self._backoff = backoff or Backoff(base_s=0.5, cap_s=60.0)
        self._log = get_logger(__name__)
        self.state = EngineState(EngineStatus.STARTING, "the engine is starting")
        self.facts = EngineFacts()
        self.capacity = Capacity()
        self.oom_count = 0
        """How often an engine died of a lack of memory."""
        self.changed = asyncio.Event()

    def engine_model(self, model: str) -> str | None:
        """The engine's own name for a model of the catalogue; None: it is not served here."""
        served = self.facts.served_models
        if model in served:
            return model
        if model != self._model:
            return None
        return served[0] if served else model

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the engine running for as long as the block lasts, then stops it."""
        task = asyncio.create_task(self._live(), name="engine")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _live(self) -> None:
        while True:
            try:
                if self._command is None:
                    await self._watch_foreign()
                else:
                    await self._supervise(self._command)
            except Exception:  # noqa: BLE001  # the one loop that nothing may end
                # Whatever it is, an agent that no longer looks after its engine must not look well.
                self._log.exception("supervision failed, beginning again")
                self._set(EngineStatus.DOWN, "the agent failed to look after the engine")
                await asyncio.sleep(self._backoff.next_s())

    async def _supervise(self, command: EngineCommand) -> None:
        await self._clear(command)
        command = await self._prepared(command)
        loop = asyncio.get_running_loop()
        while True:
            started_at = loop.time()
            reason = await self._run_once(command)
            if loop.time() - started_at > STEADY_S:
                self._backoff.reset()
            self._on_restart()
            self.oom_count += ran_out_of_memory(reason)
            delay_s = self._backoff.next_s()
            self._log.error("engine ended", reason=reason, restart_in_s=round(delay_s, 2))
            self._set(EngineStatus.DOWN, f"engine died: {reason}", restarted=True)
            await asyncio.sleep(delay_s)
            self._set(EngineStatus.STARTING, f"starting again after: {reason}")

    async def _prepared(self, command: EngineCommand) -> EngineCommand:
        """The command, once what it needs is there."""
        while self._prepare is not None:
            try:
                prepared = await self._prepare(command)
            except PreparationError as error:
                delay_s = self._backoff.next_s()
                self._log.warning("the engine cannot be started yet", reason=str(error), again_in_s=round(delay_s, 2))
                self._set(EngineStatus.DOWN, str(error))
                await asyncio.sleep(delay_s)
                continue
            self._backoff.reset()
            self._set(EngineStatus.STARTING, "the engine is starting")
            return prepared
        return command

    async def _run_once(self, command: EngineCommand) -> str:
        """One run of the engine; returns why it ended."""
        log_start = command.log_file.stat().st_size if command.log_file.exists() else 0
        try:
            process = await EngineProcess.start(command)
        except OSError as error:
            return f"cannot start it: {error}"
        watching = asyncio.create_task(process.watch())
        attending = asyncio.create_task(self._attend())
        try:
            done, _ = await asyncio.wait((watching, attending), return_when=asyncio.FIRST_COMPLETED)
            if watching in done:
                return f"{process.describe_exit()}. {last_lines(command.log_file, log_start)}".rstrip(". ")
            return attending.result()
        finally:
            attending.cancel()
            await asyncio.shield(self._stop(process, watching))
            await asyncio.gather(watching, attending, return_exceptions=True)
            await self._clear(command)
            command.pid_file.unlink(missing_ok=True)

    async def _clear(self, command: EngineCommand) -> None:
        """Makes sure that no engine of this agent runs: two would fight for the machine's memory."""
        while True:
            try:
                left = await kill_marked(command.mark)
            except TimeoutError:
                self._log.error("an earlier engine cannot be killed, trying on")
                self._set(EngineStatus.DOWN, "an earlier engine cannot be killed")
                continue
            if left:
                self._log.warning("killed what an engine left behind", processes=left)
            return

    async def _stop(self, process: EngineProcess, watching: "asyncio.Task[None]") -> None:
        for number, wait_s in ((signal.SIGTERM, self._patience.stop_s), (signal.SIGKILL, 5.0)):
            if process.exited.is_set():
                break
            process.signal_group(number)
            await asyncio.wait([watching], timeout=wait_s)

    async def _attend(self) -> str:
        """Follows an engine's health from its start; returns why it must be killed."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        while True:
            try:
                await self._api.healthy(timeout_s=self._patience.check_timeout_s)
                break
            except EngineFailureError as error:
                if loop.time() - started_at > self._patience.start_s:
                    return f"not well within {self._patience.start_s:g} s of its start: {error}"
            await asyncio.sleep(0.1)
        self._on_loaded(loop.time() - started_at)
        await self._greet()
        well_at = loop.time()
        while True:
            await asyncio.sleep(self._patience.check_interval_s)
            try:
                await self._api.healthy(timeout_s=self._patience.check_timeout_s)
                well_at = loop.time()
                self._set(EngineStatus.READY, "")
            except EngineFailureError as error:
                self._set(EngineStatus.DOWN, f"engine does not answer: {error}")
                if loop.time() - well_at > self._patience.hang_s:
                    return f"it hung: {error}"

    async def _greet(self) -> None:
        """Learns what a well engine is and what it can do."""
        while True:
            try:
                self._set(EngineStatus.STARTING, "the engine is warming up")
                self.facts = await self._api.facts()
                await learn_answers(self._api, self.facts, self._templates)
                self._set(EngineStatus.STARTING, "the engine is being measured")
                self.capacity = await self._measure(self.facts)
                break
            except EngineFailureError as error:
                self._log.warning("engine tells nothing of itself yet", reason=str(error))
                await asyncio.sleep(0.5)
        self._log.info("engine ready", version=self.facts.version, models=self.facts.served_models)
        self._set(EngineStatus.READY, "")

    async def _watch_foreign(self) -> None:
        """Follows an engine that somebody else runs."""
        greeted = False
        while True:
            try:
                await self._api.healthy(timeout_s=self._patience.check_timeout_s)
                if not greeted:
                    await self._greet()
                    greeted = True
                self._set(EngineStatus.READY, "")
            except EngineFailureError as error:
                greeted = False
                self._set(EngineStatus.DOWN, f"engine does not answer: {error}")
            await self._until_doubt(self._patience.check_interval_s if greeted else self._patience.absent_interval_s)

    async def _until_doubt(self, seconds: float) -> None:
        """Returns after so long, or when a request has found the engine unwell."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._api.doubt.wait()
        self._api.doubt.clear()

    def _set(self, status: EngineStatus, reason: str, *, restarted: bool = False) -> None:
        state = EngineState(status, reason, self.state.restarts + restarted)
        if state != self.state:
            self.state = state
            self.changed.set()


def ran_out_of_memory(reason: str) -> bool:
    """Whether an engine's last words tell of memory, the accelerator's or the machine's."""
    said = reason.lower()
    return "out of memory" in said or "outofmemory" in said

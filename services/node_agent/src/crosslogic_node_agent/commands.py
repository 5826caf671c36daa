"""What the registry tells this agent to do, and what came of it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger

MAX_AT_ONCE = 8
MAX_OUTCOMES_A_MESSAGE = 16
MAX_OUTCOMES_KEPT = 64
MAX_DETAIL_BYTES = 512
MAX_DATA_BYTES = 1024 * 1024
MAX_MESSAGE_DATA_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Done:
    """A command was carried out."""

    detail: str
    data: bytes = b""


class CommandError(Exception):
    """A command cannot be carried out; the text is for the operator."""


Carry = Callable[[pb.NodeCommand], Awaitable[Done]]


class Commands:
    """Carries commands out, each once and beside everything else. `changed` is set when there is an outcome to tell."""

    def __init__(self, carriers: Mapping[str, Carry]) -> None:
        """`carriers`: by the name of the command's kind in the contract."""
        self._carriers = carriers
        self._running: dict[str, asyncio.Task[None]] = {}
        self._outcomes: deque[pb.NodeCommandOutcome] = deque(maxlen=MAX_OUTCOMES_KEPT)
        self._log = get_logger(__name__)
        self.changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ends what is under way with the block."""
        try:
            yield
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def take(self, command: pb.NodeCommand) -> None:
        """Begins to carry a command out. One that is under way already is not begun twice."""
        if command.id in self._running:
            return
        if len(self._running) >= MAX_AT_ONCE:
            self._tell(command.id, done=False, detail="too many commands are under way")
            return
        task = asyncio.create_task(self._carry(command), name=f"command {command.id}")
        self._running[command.id] = task
        task.add_done_callback(lambda _: self._running.pop(command.id, None))

    def take_outcomes(self) -> list[pb.NodeCommandOutcome]:
        """What has not been told yet, at most 16 and about 4 MiB."""
        taken: list[pb.NodeCommandOutcome] = []
        size = 0
        while self._outcomes and len(taken) < MAX_OUTCOMES_A_MESSAGE and size < MAX_MESSAGE_DATA_BYTES:
            taken.append(self._outcomes.popleft())
            size += len(taken[-1].data)
        return taken

    async def _carry(self, command: pb.NodeCommand) -> None:
        kind = command.WhichOneof("kind") or ""
        self._log.info("command", command_id=command.id, kind=kind)
        try:
            done = await self._carriers.get(kind, _unknown)(command)
            self._tell(command.id, done=True, detail=done.detail, data=done.data)
        except CommandError as error:
            self._tell(command.id, done=False, detail=str(error))
        except CodedError as error:
            self._tell(command.id, done=False, detail=error.private or error.public)
        except Exception as error:  # noqa: BLE001  # the operator is told, and the node goes on
            self._log.exception("command failed", command_id=command.id, kind=kind)
            self._tell(command.id, done=False, detail=f"it failed: {type(error).__name__}")

    def _tell(self, command_id: str, *, done: bool, detail: str, data: bytes = b"") -> None:
        text = detail.encode()[:MAX_DETAIL_BYTES].decode("utf-8", "ignore")
        self._outcomes.append(
            pb.NodeCommandOutcome(command_id=command_id, done=done, detail=text, data=data[-MAX_DATA_BYTES:])
        )
        self.changed.set()


async def _unknown(command: pb.NodeCommand) -> Done:
    raise CommandError(f"this agent knows no command {command.WhichOneof('kind')!r}")

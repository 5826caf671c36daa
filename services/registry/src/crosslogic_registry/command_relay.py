"""Commands for nodes whose streams end at another replica: stored, taken there, answered here."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_common.postgres import notifications
from crosslogic_registry.command_store import COMMANDS_CHANNEL, PostgresCommands
from crosslogic_registry.fleet import Fleet

TAKEN_WITHIN_S = 3.0
"""By then the replica that holds the node's stream has taken the command, or there is none."""
MAX_CARRIED = 256
CarryOut = Callable[[str, pb.NodeCommand, int], Awaitable[pb.NodeCommandOutcome]]


class CommandRelay:
    """Asks other replicas, and carries out for them what is for nodes whose streams end here."""

    def __init__(self, *, store: PostgresCommands, fleet: Fleet, dsn: str, origin: str) -> None:
        """`origin` names this replica."""
        self._store = store
        self._fleet = fleet
        self._dsn = dsn
        self._origin = origin
        self._waiting: dict[str, asyncio.Event] = {}
        self._carried: set[asyncio.Task[None]] = set()
        self._log = get_logger(__name__)

    async def ask(
        self, command_id: str, node_id: str, command: pb.NodeCommand, timeout_s: int
    ) -> pb.NodeCommandOutcome:
        """Has the replica that holds the node's stream carry a command out.

        Raises UNAVAILABLE (no replica holds it, or the database is away), TIMEOUT, and what is raised there.
        """
        told = self._waiting[command_id] = asyncio.Event()
        try:
            await self._store.add(command_id, node_id, command, timeout_s)
            outcome = await self._told(command_id, told, TAKEN_WITHIN_S)
            if outcome is None and await self._store.forget(command_id, unless_taken=True):
                raise CodedError(ErrorCode.UNAVAILABLE, "The node's stream ends at no replica.")
            if outcome is None:
                outcome = await self._told(command_id, told, max(timeout_s - TAKEN_WITHIN_S, 0.0) + TAKEN_WITHIN_S)
            if outcome is None:
                raise CodedError(ErrorCode.TIMEOUT, "The node has not said what came of it.")
            return outcome
        finally:
            del self._waiting[command_id]
            with contextlib.suppress(CodedError):
                await self._store.forget(command_id, unless_taken=False)

    async def _told(self, command_id: str, told: asyncio.Event, within_s: float) -> pb.NodeCommandOutcome | None:
        """What came of it within so many seconds. An event without a result only says that notices may be missing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    await told.wait()
                    told.clear()
                    outcome = await self._store.result(command_id)
                    if outcome is not None:
                        return outcome
        return await self._store.result(command_id)

    @contextlib.asynccontextmanager
    async def running(self, carry_out: CarryOut) -> AsyncIterator[None]:
        """Listens for as long as the block lasts; `carry_out` has a node whose stream ends here do something."""
        task = asyncio.create_task(self._listen(carry_out), name="commands of other replicas")
        try:
            yield
        finally:
            for each in (task, *self._carried):
                each.cancel()
            await asyncio.gather(task, *self._carried, return_exceptions=True)

    async def _listen(self, carry_out: CarryOut) -> None:
        backoff = Backoff(cap_s=2.0)
        async for payload in notifications(self._dsn, schema="registry", channel=COMMANDS_CHANNEL):
            while True:
                try:
                    await self._take_notice(payload, carry_out)
                    backoff.reset()
                    break
                except CodedError as error:
                    self._log.warning("commands not read", reason=error.private or error.public)
                    await asyncio.sleep(backoff.next_s())

    async def _take_notice(self, payload: str | None, carry_out: CarryOut) -> None:
        if payload is None:
            # Notices may have been missed.
            for told in self._waiting.values():
                told.set()
            for command_id, node_id in await self._store.waiting():
                self._take_up(command_id, node_id, carry_out)
            return
        kind, _, command_id = payload.partition(":")
        if kind == "told":
            if command_id in self._waiting:
                self._waiting[command_id].set()
        elif command_id not in self._waiting:
            wanted = await self._store.node_of(command_id)
            if wanted is not None:
                self._take_up(command_id, wanted, carry_out)

    def _take_up(self, command_id: str, node_id: str, carry_out: CarryOut) -> None:
        member = self._fleet.known(node_id)
        if member is None or member.session is None or len(self._carried) >= MAX_CARRIED:
            return
        task = asyncio.create_task(self._carry(command_id, carry_out), name="command of another replica")
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)

    async def _carry(self, command_id: str, carry_out: CarryOut) -> None:
        try:
            taken = await self._store.take(command_id, self._origin)
            if taken is None:
                return
            outcome: pb.NodeCommandOutcome | CodedError
            try:
                outcome = await carry_out(taken.node_id, taken.command, taken.timeout_s)
            except CodedError as error:
                outcome = error
            await self._store.answer(command_id, outcome)
        except CodedError as error:
            self._log.warning("command of another replica lost", command_id=command_id, reason=str(error))

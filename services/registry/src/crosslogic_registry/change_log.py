"""Changes of nodes on their way to the database.

The fleet tells its watchers first and the database as soon as it can: a slow or absent database delays no push, and
nothing is forgotten for it. Changes gather while a transaction is under way; the next one carries them all.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_registry.domain import StatusChange
from crosslogic_registry.observations import Observations
from crosslogic_registry.ports import FleetStore

MAX_CHANGES_A_TRANSACTION = 1_000
MAX_CHANGES_KEPT = 10_000
"""While the database is away. Beyond it only the last change of each node is kept: the fleet bounds the memory."""
_LAST_WORDS_S = 3.0


class ChangeLog:
    """Gathers changes and writes them in order."""

    def __init__(self, *, store: FleetStore, origin: str, observations: Observations) -> None:
        """`origin` names this replica to the others."""
        self._store = store
        self._origin = origin
        self._observations = observations
        self._changes: list[StatusChange] = []
        self._facts: dict[str, pb.NodeFacts] = {}
        self._writing: frozenset[str] = frozenset()
        self._filled = asyncio.Event()
        self._log = get_logger(__name__)

    def add_status(self, change: StatusChange) -> None:
        """A node's status changed."""
        self._changes.append(change)
        if len(self._changes) > MAX_CHANGES_KEPT:
            self._changes = list({change.node_id: change for change in self._changes}.values())
        self._filled.set()

    def add_facts(self, node_id: str, facts: pb.NodeFacts) -> None:
        """A node said what it is."""
        self._facts[node_id] = facts
        self._filled.set()

    def unsaved_node_ids(self) -> frozenset[str]:
        """Nodes of which the database does not have the latest yet."""
        return self._writing.union(self._facts, (change.node_id for change in self._changes))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes for as long as the block lasts; what is left at its end gets one more try of 3 s."""
        task = asyncio.create_task(self._write_forever(), name="change log")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self.write()

    async def write(self) -> bool:
        """Writes what waits, at most 1,000 changes. False: the database is away and all of it still waits."""
        changes, self._changes = self._changes[:MAX_CHANGES_A_TRANSACTION], self._changes[MAX_CHANGES_A_TRANSACTION:]
        facts, self._facts = self._facts, {}
        if not changes and not facts:
            return True
        self._writing = frozenset(facts).union(change.node_id for change in changes)
        saved = False
        try:
            await self._store.save(changes, facts, origin=self._origin)
            saved = True
        except CodedError as error:
            self._log.warning("changes not saved yet", changes=len(changes), reason=error.private or error.public)
        except Exception:  # noqa: BLE001  # one change that cannot be written must not hold back all others
            self._log.exception("changes dropped", node_ids=sorted(self._writing)[:20])
            saved = True
        finally:
            if not saved:
                self._changes = changes + self._changes
                self._facts = facts | self._facts
            self._writing = frozenset()
            self._observations.unsaved_changes.set(len(self._changes) + len(self._facts))
        return saved

    async def _write_forever(self) -> None:
        backoff = Backoff(cap_s=2.0)
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._changes or self._facts:
                if await self.write():
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.next_s())

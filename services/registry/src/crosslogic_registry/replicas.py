"""What other replicas of the registry change is learnt by NOTIFY, within milliseconds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_common.postgres import notifications
from crosslogic_registry.fleet import Fleet
from crosslogic_registry.ports import FleetStore
from crosslogic_registry.store import NODES_CHANNEL


class ReplicaNews:
    """Takes nodes that other replicas wrote into the fleet."""

    def __init__(self, *, fleet: Fleet, store: FleetStore, dsn: str, origin: str, forgotten_s: float) -> None:
        """`origin` names this replica; nodes dead for longer than `forgotten_s` seconds are passed over."""
        self._fleet = fleet
        self._store = store
        self._dsn = dsn
        self._origin = origin
        self._forgotten_s = forgotten_s
        self._log = get_logger(__name__)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listens for as long as the block lasts."""
        task = asyncio.create_task(self._listen(), name="replica news")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _listen(self) -> None:
        backoff = Backoff(cap_s=2.0)
        async for payload in notifications(self._dsn, schema="registry", channel=NODES_CHANNEL):
            while True:
                try:
                    await self.take(payload)
                    backoff.reset()
                    break
                except CodedError as error:
                    self._log.warning("news of nodes not read", reason=error.private or error.public)
                    await asyncio.sleep(backoff.next_s())

    async def take(self, payload: str | None) -> None:
        """Reads what a notice names; None: notices may have been missed, so everything. Raises UNAVAILABLE."""
        if payload is None:
            stored = await self._store.nodes(dead_within_s=self._forgotten_s)
        else:
            origin, _, node_ids = payload.partition(":")
            if origin == self._origin:
                return
            stored = await self._store.nodes_by_id(node_ids.split(","))
        for node in stored:
            self._fleet.adopt(node, link="elsewhere")

"""Who watches the fleet, and what each of them has not been told yet."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode

MAX_NODES_A_MESSAGE = 1_000
MAX_WATCHERS = 1_000
MAX_PENDING = 100_000
"""Nodes that a watcher may be behind by. Beyond it the watcher starts again with a snapshot."""
GATHER_S = 0.05
"""How long news of load alone may wait for more of its kind. A change of status, facts or reach never waits."""


@dataclass(frozen=True, slots=True)
class News:
    """What a watcher is to be told next."""

    nodes: list[pb.Node] = field(default_factory=list)
    removed_node_ids: list[str] = field(default_factory=list)
    start_again: bool = False
    """It fell too far behind: it needs a new snapshot."""


class Watcher:
    """One watcher's news, the latest of each node only: the fleet bounds what it costs, however slowly it reads."""

    def __init__(self, *, gather_s: float = GATHER_S, max_pending: int = MAX_PENDING) -> None:
        self._gather_s = gather_s
        self._max_pending = max_pending
        self._pending: dict[str, pb.Node | None] = {}
        self._filled = asyncio.Event()
        self._urgent = asyncio.Event()
        self._overflowed = False

    def put(self, node_id: str, node: pb.Node | None, *, urgent: bool) -> None:
        """A node changed; None: it is forgotten."""
        if self._overflowed:
            return
        self._pending[node_id] = node
        if len(self._pending) > self._max_pending:
            self._pending.clear()
            self._overflowed = urgent = True
        self._filled.set()
        if urgent:
            self._urgent.set()

    async def next(self) -> News:
        """What changed since the last call, at most 1,000 nodes."""
        await self._filled.wait()
        if not self._urgent.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._gather_s):
                    await self._urgent.wait()
        if self._overflowed:
            self._overflowed = False
            self._filled.clear()
            self._urgent.clear()
            return News(start_again=True)
        pending = self._pending
        taken = {node_id: pending.pop(node_id) for node_id in list(pending)[:MAX_NODES_A_MESSAGE]}
        if not pending:
            self._filled.clear()
            self._urgent.clear()
        return News(
            nodes=[node for node in taken.values() if node is not None],
            removed_node_ids=[node_id for node_id, node in taken.items() if node is None],
        )


class Watchers:
    """All of them."""

    def __init__(self, *, new: Callable[[], Watcher] = Watcher, max_watchers: int = MAX_WATCHERS) -> None:
        self._new = new
        self._max_watchers = max_watchers
        self._watchers: set[Watcher] = set()

    def __len__(self) -> int:
        """How many watch."""
        return len(self._watchers)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Watcher]:
        """One more, for as long as the block lasts. Raises OVERLOADED when there are too many."""
        if len(self._watchers) >= self._max_watchers:
            raise CodedError(ErrorCode.OVERLOADED, private=f"{len(self._watchers)} watchers")
        watcher = self._new()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def tell(self, node: pb.Node, *, urgent: bool) -> None:
        """A node changed."""
        for watcher in self._watchers:
            watcher.put(node.id, node, urgent=urgent)

    def tell_forgotten(self, node_id: str) -> None:
        """A node is not known any more."""
        for watcher in self._watchers:
            watcher.put(node_id, None, urgent=False)

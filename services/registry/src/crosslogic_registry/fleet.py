"""The fleet in memory: what every node is and how it is, pushed to watchers as it changes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_registry import policy
from crosslogic_registry.policy import Silence, Status
from crosslogic_registry.store import StoredNode

STATUS_TO_PB: dict[Status, pb.NodeStatus] = {
    "registering": pb.NODE_STATUS_REGISTERING,
    "warming": pb.NODE_STATUS_WARMING,
    "active": pb.NODE_STATUS_ACTIVE,
    "draining": pb.NODE_STATUS_DRAINING,
    "dead": pb.NODE_STATUS_DEAD,
}
STATUS_FROM_PB: dict[int, Status] = {value: name for name, value in STATUS_TO_PB.items()}
MAX_NODES_A_MESSAGE = 1_000


class FleetStore(Protocol):
    """What the fleet keeps durably."""

    async def nodes(self) -> list[StoredNode]:
        """The nodes as last known."""

    async def save_status(self, node_id: str, status: Status, reason: str) -> None:
        """Keeps a change of status with its reason."""

    async def save_facts(self, node_id: str, facts: pb.NodeFacts) -> None:
        """Keeps what a node said it is."""

    async def ask_drain(self, node_id: str) -> None:
        """Keeps that an operator wants the node drained."""


@dataclass(slots=True)
class _Member:
    node: pb.Node
    status: Status
    drain_asked: bool
    heard_at: float
    connected: bool = False
    epoch: int = 0
    """Counts the node's streams: a stream that was replaced must not speak for it any more."""


class Watcher:
    """One watcher's changes, the latest of each node only: its memory is bounded by the fleet's size."""

    def __init__(self) -> None:
        self._changed: dict[str, pb.Node] = {}
        self._filled = asyncio.Event()

    def put(self, node: pb.Node) -> None:
        """A node changed."""
        self._changed[node.id] = node
        self._filled.set()

    async def next(self) -> list[pb.Node]:
        """What changed since the last call, at most 1,000 nodes."""
        await self._filled.wait()
        ids = list(self._changed)[:MAX_NODES_A_MESSAGE]
        nodes = [self._changed.pop(id_) for id_ in ids]
        if not self._changed:
            self._filled.clear()
        return nodes


class Fleet:
    """All nodes. Postgres is asked only when a status changes or facts do."""

    def __init__(self, *, store: FleetStore, clock: Clock, silence: Silence) -> None:
        self._store = store
        self._clock = clock
        self._silence = silence
        self._members: dict[str, _Member] = {}
        self._watchers: set[Watcher] = set()
        self._log = get_logger(__name__)

    async def load(self) -> None:
        """Takes the fleet as last known. Its nodes have the whole of their silence to speak again."""
        for stored in await self._store.nodes():
            self.add(stored)

    def add(self, stored: StoredNode) -> None:
        """Takes in a node."""
        created = Timestamp()
        created.FromDatetime(stored.created_at)
        node = pb.Node(
            id=stored.id,
            org_id=stored.org_id,
            status=STATUS_TO_PB[stored.status],
            status_reason=stored.status_reason,
            facts=stored.facts,
            create_time=created,
            reachable=stored.status != "dead",
        )
        # Heard of now, and treated as connected: after a restart of ours nobody is suspected at once.
        member = _Member(node, stored.status, stored.drain_asked, self._clock.monotonic(), connected=True)
        self._members[stored.id] = member
        self._push(member)

    def nodes(self) -> list[pb.Node]:
        """All nodes, by id."""
        return [self._members[id_].node for id_ in sorted(self._members)]

    def org_of(self, node_id: str) -> str:
        """The organisation that a node serves; empty: any. Raises NOT_FOUND."""
        return self._member(node_id).node.org_id

    @contextlib.contextmanager
    def watching(self) -> Iterator[tuple[list[pb.Node], Watcher]]:
        """The fleet now, and the changes from now on, for as long as the block lasts."""
        watcher = Watcher()
        self._watchers.add(watcher)
        try:
            yield self.nodes(), watcher
        finally:
            self._watchers.discard(watcher)

    def connect(self, node_id: str) -> int:
        """A stream of the node's begins; returns its epoch. Raises NOT_FOUND for a node that is not known."""
        member = self._member(node_id)
        member.epoch += 1
        member.connected = True
        return member.epoch

    def disconnect(self, node_id: str, epoch: int) -> None:
        """A stream ended. The node has `suspect_s` to come back before it is passed over."""
        member = self._members.get(node_id)
        if member is not None and member.epoch == epoch:
            member.connected = False
            member.heard_at = self._clock.monotonic()

    async def hear(self, node_id: str, epoch: int, heartbeat: pb.HeartbeatStreamRequest) -> bool:
        """Takes a heartbeat; says whether the node is to drain. Raises CONFLICT when a later stream speaks for it."""
        member = self._member(node_id)
        if member.epoch != epoch:
            raise CodedError(ErrorCode.CONFLICT, "A later stream of this node has taken over.")
        member.heard_at = self._clock.monotonic()
        facts_changed = heartbeat.HasField("facts") and heartbeat.facts != member.node.facts
        node = pb.Node()
        node.CopyFrom(member.node)
        if facts_changed:
            node.facts.CopyFrom(policy.check_facts(heartbeat.facts))
        if heartbeat.HasField("load"):
            node.load.CopyFrom(heartbeat.load)
        node.last_heartbeat_time.FromDatetime(self._clock.now())
        node.reachable = True
        said = STATUS_FROM_PB.get(heartbeat.status, member.status)
        status = policy.next_status(member.status, said, drain_asked=member.drain_asked)
        member.node = node
        if facts_changed:
            try:
                await self._store.save_facts(node_id, node.facts)
            except CodedError as error:
                self._log.warning("facts not kept", node_id=node_id, reason=error.private or error.public)
        if status != member.status:
            await self._change(member, status, heartbeat.status_reason[: policy.MAX_REASON_CHARS])
        else:
            self._push(member)
        return member.drain_asked

    async def drain(self, node_id: str) -> pb.Node:
        """Takes a node out of picking."""
        member = self._member(node_id)
        await self._store.ask_drain(node_id)
        member.drain_asked = True
        status = policy.next_status(member.status, "draining", drain_asked=True)
        if status != member.status:
            await self._change(member, status, "drained by an operator")
        return member.node

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Notices silence for as long as the block lasts."""
        task = asyncio.create_task(self._notice_silence(), name="silence")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def check_silence(self) -> None:
        """Marks nodes unreachable or dead that have been silent for too long."""
        now = self._clock.monotonic()
        for member in list(self._members.values()):
            silent_s = now - member.heard_at
            if policy.is_dead(member.status, silent_s, self._silence):
                member.node = _with_reachable(member.node, reachable=False)
                await self._change(member, "dead", f"not heard of for {silent_s:.0f} s")
            elif member.node.reachable and not policy.is_reachable(silent_s, self._silence, connected=member.connected):
                member.node = _with_reachable(member.node, reachable=False)
                self._push(member)

    async def _notice_silence(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            await self.check_silence()

    async def _change(self, member: _Member, status: Status, reason: str) -> None:
        try:
            await self._store.save_status(member.node.id, status, reason)
        except CodedError as error:
            # The database is away: the fleet goes on from memory, and the node's next change is kept again.
            self._log.warning("status not kept", node_id=member.node.id, reason=error.private or error.public)
        self._log.info("node changed", node_id=member.node.id, before=member.status, after=status, reason=reason)
        node = pb.Node()
        node.CopyFrom(member.node)
        node.status = STATUS_TO_PB[status]
        node.status_reason = reason
        if status == "dead":
            node.reachable = False
        member.node = node
        member.status = status
        self._push(member)

    def _member(self, node_id: str) -> _Member:
        member = self._members.get(node_id)
        if member is None:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such node.")
        return member

    def _push(self, member: _Member) -> None:
        for watcher in self._watchers:
            watcher.put(member.node)


def _with_reachable(node: pb.Node, *, reachable: bool) -> pb.Node:
    copy = pb.Node()
    copy.CopyFrom(node)
    copy.reachable = reachable
    return copy


def batches(nodes: Iterable[pb.Node]) -> Iterator[list[pb.Node]]:
    """The nodes in messages of at most 1,000."""
    batch: list[pb.Node] = []
    for node in nodes:
        batch.append(node)
        if len(batch) == MAX_NODES_A_MESSAGE:
            yield batch
            batch = []
    if batch:
        yield batch

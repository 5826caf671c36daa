"""The fleet in memory: what every node is and how it is, pushed to watchers as it changes.

A node's message is changed in place: a watcher that has not been told yet is told the latest, and a heartbeat costs no
copy of the whole node.
"""

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.batched import Backoff
from crosslogic_common.clock import Clock, timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_registry import health, policy
from crosslogic_registry.change_log import ChangeLog
from crosslogic_registry.domain import (
    MAX_NODES,
    STATUS_FROM_PB,
    STATUS_TO_PB,
    Link,
    NodeEvent,
    Silence,
    Status,
    StatusChange,
    StoredNode,
    is_silence,
)
from crosslogic_registry.members import Member
from crosslogic_registry.observations import Observations
from crosslogic_registry.ports import FleetStore
from crosslogic_registry.session import HeartbeatSession
from crosslogic_registry.watchers import Watchers

LOOK_EVERY_S = 0.5


RESUME_DOUBT_S = 2.0
"""A row that was read while a drain was being written may not have it yet: no drain is taken back so soon."""


class Fleet:
    """All nodes. The database is asked only for nodes that are not in memory, and told only of changes."""

    def __init__(
        self,
        *,
        store: FleetStore,
        changes: ChangeLog,
        watchers: Watchers,
        clock: Clock,
        silence: Silence,
        origin: str,
        observations: Observations,
    ) -> None:
        """`origin` names this replica to the others."""
        self._store = store
        self._changes = changes
        self.watchers = watchers
        self._clock = clock
        self._silence = silence
        self._origin = origin
        self._observations = observations
        self._members: dict[str, Member] = {}
        self._log = get_logger(__name__)
        self._tunnels: tuple[str, ...] = ()
        self.blind = False
        """Set while there is no way to ask whether a node is heard of by another replica."""
        self.stopping = False
        """Set when streams end because this replica stops, which says nothing about the nodes."""

    def __len__(self) -> int:
        """Nodes in memory."""
        return len(self._members)

    # What is known.

    def knows(self, node_id: str) -> bool:
        """Whether the node is in memory."""
        return node_id in self._members

    async def load(self) -> None:
        """Takes the fleet as last known, however long the database takes. Nobody has been silent yet."""
        backoff = Backoff(cap_s=2.0)
        while True:
            try:
                stored = await self._store.nodes(dead_within_s=self._silence.forgotten_s)
            except CodedError as error:
                self._log.warning("fleet not read, trying again", reason=error.private or error.public)
                await asyncio.sleep(backoff.next_s())
                continue
            for node in stored[:MAX_NODES]:
                self.adopt(node, link="here")
            self._log.info("fleet read", nodes=len(stored))
            return

    def adopt(self, stored: StoredNode, *, link: Link) -> Member:
        """Takes in a node as the database has it, or what another replica wrote of it.

        Of a node that speaks here this replica knows best: it takes an operator's drain, and lets go of a node that has
        since spoken to another replica.
        """
        member = self._members.get(stored.id)
        if member is None:
            member = Member(_to_node(stored), stored.status, stored.drain_asked, self._clock.monotonic(), link)
            if stored.status == "dead":
                died_s_ago = (self._clock.now() - stored.changed_at).total_seconds()
                member.heard_at -= max(0.0, died_s_ago)
            self._members[stored.id] = member
            self.watchers.tell(member.node, urgent=True)
            return member
        if stored.drain_asked and not member.drain_asked:
            self._take_out(member)
        elif member.drain_asked and not stored.drain_asked and self._since_drain_s(member) > RESUME_DOUBT_S:
            self._put_back(member)
        if stored.id in self._changes.unsaved_node_ids():
            return member
        if member.session is not None:
            if stored.status == member.status:
                return member
            if is_silence(stored.status_reason) and self.silent_s(member) < self._silence.unhealthy_s:
                # A replica that could not hear the node gave it up: put right what the database says.
                self._changes.add_status(self._status_change(member, member.status, member.node.status_reason))
                return member
            self._leave_to_another_replica(member)
        if stored.status not in (member.status, "dead"):
            member.hear(self._clock.monotonic())
            member.link = link
        member.status = stored.status
        _write_stored(member.node, stored)
        member.node.reachable = member.node.reachable and stored.status != "dead"
        self.watchers.tell(member.node, urgent=True)
        return member

    def nodes(self) -> list[pb.Node]:
        """All nodes, by id."""
        return [self._members[node_id].node for node_id in sorted(self._members)]

    def page(self, after: str, limit: int) -> list[pb.Node]:
        """Nodes by id, after an id."""
        ids = sorted(node_id for node_id in self._members if node_id > after)
        return [self._members[node_id].node for node_id in ids[:limit]]

    def members(self) -> Iterable[Member]:
        """All nodes with what the registry knows of them."""
        return self._members.values()

    def silent_s(self, member: Member) -> float:
        """For how long a node has not been heard of, in seconds."""
        return self._clock.monotonic() - member.heard_at

    async def org_of(self, node_id: str) -> str:
        """The organisation that a node serves; empty: any. Raises NOT_FOUND."""
        return (await self.member(node_id)).node.org_id

    async def events(self, node_id: str, *, before: int, limit: int) -> list[NodeEvent]:
        """A node's life, newest first. Raises NOT_FOUND."""
        await self.member(node_id)
        return await self._store.events(node_id, before=before, limit=limit)

    async def member(self, node_id: str) -> Member:
        """A node; read from the database when it is not in memory. Raises NOT_FOUND."""
        member = self._members.get(node_id)
        if member is not None:
            return member
        if not _is_uuid(node_id):
            raise _unknown()
        # It may have joined at another replica a moment ago, or be back from the dead.
        stored = await self._store.nodes_by_id([node_id])
        if not stored:
            raise _unknown()
        return self.adopt(stored[0], link="elsewhere")

    # What nodes say.

    async def connect(self, node_id: str, session: HeartbeatSession, *, org_id: str = "") -> None:
        """A stream of the node's begins; an earlier one ends. `org_id` is the one in its certificate.

        Raises NOT_FOUND for a node that is not known, PERMISSION_DENIED for a certificate of another organisation.
        """
        member = await self.member(node_id)
        if member.node.org_id != org_id:
            raise CodedError(
                ErrorCode.PERMISSION_DENIED, private=f"node {node_id}: the certificate's organisation differs"
            )
        previous, member.session = member.session, session
        member.link = "here"
        if previous is not None:
            previous.end()

    def disconnect(self, node_id: str, session: HeartbeatSession) -> None:
        """A stream ended. The node has `suspect_s` to come back before it is passed over."""
        member = self._members.get(node_id)
        if member is not None and member.session is session:
            member.session = None
            if not self.stopping:
                member.link = "broken"
                member.heard_at = self._clock.monotonic()

    def hear(self, node_id: str, session: HeartbeatSession, heartbeat: pb.HeartbeatStreamRequest) -> bool:
        """Takes a heartbeat; says whether the node is to drain.

        Raises CONFLICT when a later stream speaks for the node, INVALID_ARGUMENT, NOT_FOUND when it was forgotten.
        """
        member = self._members.get(node_id)
        if member is None:
            raise _unknown()
        if member.session is not session:
            raise CodedError(ErrorCode.CONFLICT, "A later stream of this node has taken over.")
        news = self._take_word(member, session, heartbeat)
        node = member.node
        session.introduced = True
        self._observations.heartbeats.inc()
        now = self._clock.monotonic()
        member.hear(now)
        member.lease_due = True
        if heartbeat.HasField("weights"):
            node.weights.CopyFrom(heartbeat.weights)
        node.last_heartbeat_time.FromDatetime(self._clock.now())
        said = STATUS_FROM_PB.get(heartbeat.status, member.status)
        status = policy.next_status(member.status, said, drain_asked=member.drain_asked)
        if not node.reachable and status != "dead":
            node.reachable = news = True
        if news or heartbeat.HasField("metrics") or node.health_score < health.BEST:
            node.health_score = member.score(now, self._silence)
        if status != member.status:
            reason = policy.short_reason(heartbeat.status_reason)
            self.change(member, status, reason or ("the node said goodbye" if status == "dead" else "the node said so"))
        else:
            reason = policy.short_reason(heartbeat.status_reason)
            if status == "warming" and reason not in ("", node.status_reason):
                # How far it is, or why its engine does not start: whoever launches it waits for each word.
                node.status_reason, news = reason, True
            self.watchers.tell(node, urgent=news)
        return member.drain_asked

    def _take_word(self, member: Member, session: HeartbeatSession, heartbeat: pb.HeartbeatStreamRequest) -> bool:
        """What the node says of itself; whether it is news that must not wait. Raises INVALID_ARGUMENT."""
        node = member.node
        news = False
        if heartbeat.HasField("load"):
            node.load.CopyFrom(policy.check_load(heartbeat.load))
        if heartbeat.HasField("metrics"):
            member.take_metrics(policy.check_metrics(heartbeat.metrics))
        if heartbeat.HasField("facts"):
            if heartbeat.facts != node.facts:
                node.facts.CopyFrom(policy.check_facts(heartbeat.facts))
                self._changes.add_facts(node.id, heartbeat.facts)
                news = True
            if heartbeat.facts.tunnel and (news or not session.introduced):
                session.order_tunnels(self._tunnels)
        elif not session.introduced:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "The first message must carry `facts`.", param="facts")
        if heartbeat.HasField("spot_notice") or (not session.introduced and node.HasField("spot_notice")):
            notice = policy.check_notice(heartbeat.spot_notice)
            if notice.kind == pb.SPOT_NOTICE_KIND_UNSPECIFIED:
                node.ClearField("spot_notice")
            else:
                if notice.kind != node.spot_notice.kind:
                    self._observations.spot_notice(notice)
                node.spot_notice.CopyFrom(notice)
            news = True
        return news

    async def drain(self, node_id: str) -> pb.Node:
        """Takes a node out of picking. Kept before it is told: an order given once holds. Raises NOT_FOUND."""
        member = await self.member(node_id)
        if not await self._store.ask_drain(node_id, drain=True, origin=self._origin):
            raise _unknown()
        self._take_out(member)
        return member.node

    async def resume(self, node_id: str) -> pb.Node:
        """Takes an operator's drain back; the node says for itself when it serves again. Raises NOT_FOUND."""
        member = await self.member(node_id)
        if not await self._store.ask_drain(node_id, drain=False, origin=self._origin):
            raise _unknown()
        self._put_back(member)
        return member.node

    def heard_elsewhere(self, member: Member, word: pb.Node) -> None:
        """Another replica heard of the node: `word` holds its load and when that was."""
        if member.session is not None:
            self._leave_to_another_replica(member)
        member.link = "elsewhere"
        member.hear(self._clock.monotonic())
        member.node.load.CopyFrom(word.load)
        member.node.last_heartbeat_time.CopyFrom(word.last_heartbeat_time)
        news = not member.node.reachable
        member.node.reachable = True
        self.watchers.tell(member.node, urgent=news)

    def lost_elsewhere(self, member: Member) -> None:
        """The replica that heard of the node has not for a while, or its stream there broke."""
        member.link = "broken"
        member.heard_at = self._clock.monotonic()

    def set_tunnels(self, addresses: tuple[str, ...]) -> None:
        """Where the gateways' tunnels are; nodes that only dial out are told at once."""
        if addresses == self._tunnels:
            return
        self._tunnels = addresses
        for member in self._members.values():
            if member.session is not None and member.node.facts.tunnel:
                member.session.order_tunnels(addresses)

    def forget(self, node_id: str) -> None:
        """A node has been dead for long: nobody needs to know of it any more."""
        del self._members[node_id]
        self.watchers.tell_forgotten(node_id)

    def known(self, node_id: str) -> Member | None:
        """A node, if it is in memory."""
        return self._members.get(node_id)

    def end_sessions(self) -> None:
        """Ends every heartbeat stream, because this replica stops: nodes go to another."""
        self.stopping = True
        for member in self._members.values():
            if member.session is not None:
                member.session.end()

    # Steps in between.

    def _leave_to_another_replica(self, member: Member) -> None:
        # Its stream here is one that broke without a word; the node has long had another.
        session, member.session = member.session, None
        if session is not None:
            session.end()

    def _take_out(self, member: Member) -> None:
        member.drain_asked = True
        member.drained_at = self._clock.monotonic()
        status = policy.next_status(member.status, "draining", drain_asked=True)
        if member.status in ("warming", "active") and status != member.status:
            self.change(member, status, "drained by an operator")
        if member.session is not None:
            member.session.order_drain()

    def _put_back(self, member: Member) -> None:
        member.drain_asked = False
        if member.session is not None:
            member.session.order_drain(drain=False)

    def _since_drain_s(self, member: Member) -> float:
        return self._clock.monotonic() - member.drained_at

    def change(self, member: Member, status: Status, reason: str) -> None:
        """A step in a node's life: watchers are told first, the database right after."""
        node = member.node
        self._log.info("node changed", node_id=node.id, before=member.status, after=status, reason=reason)
        member.status = status
        node.status = STATUS_TO_PB[status]
        node.status_reason = reason
        if status == "dead":
            node.reachable = False
            node.health_score = 0
        self._changes.add_status(self._status_change(member, status, reason))
        self.watchers.tell(node, urgent=True)

    def _status_change(self, member: Member, status: Status, reason: str) -> StatusChange:
        return StatusChange(node_id=member.node.id, status=status, reason=reason, at=self._clock.now())


def batches(nodes: Sequence[pb.Node], size: int) -> Iterator[Sequence[pb.Node]]:
    """The nodes in lists of at most `size`."""
    for start in itertools.count(0, size):
        if start >= len(nodes):
            return
        yield nodes[start : start + size]


def _to_node(stored: StoredNode) -> pb.Node:
    node = pb.Node(
        id=stored.id,
        org_id=stored.org_id,
        create_time=timestamp(stored.created_at),
        reachable=stored.status != "dead",
        health_score=0 if stored.status == "dead" else health.BEST,
    )
    _write_stored(node, stored)
    return node


def _write_stored(node: pb.Node, stored: StoredNode) -> None:
    node.status = STATUS_TO_PB[stored.status]
    node.status_reason = stored.status_reason
    node.facts.CopyFrom(stored.facts)


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _unknown() -> CodedError:
    return CodedError(ErrorCode.NOT_FOUND, "There is no such node.")

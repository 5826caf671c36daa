"""A fleet with everything around it in memory."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError
from crosslogic_common.ids import Uuid7Source
from crosslogic_registry.change_log import ChangeLog
from crosslogic_registry.domain import Silence
from crosslogic_registry.fleet import Fleet
from crosslogic_registry.observations import Observations
from crosslogic_registry.session import HeartbeatSession
from crosslogic_registry.silence_watch import SilenceWatch
from crosslogic_registry.watchers import Watcher, Watchers
from tests.fakes.registry_store import FakeRegistryClock, FakeRegistryStore

SILENCE = Silence(suspect_s=3, unhealthy_s=15, dead_s=60, forgotten_s=3600)


def facts(**others: object) -> pb.NodeFacts:
    """Facts that may be kept."""
    said = pb.NodeFacts(address="10.0.0.1:9000", region="us-east", models=["tiny"], max_tokens_per_sec=1000)
    said.MergeFrom(pb.NodeFacts(**others))  # type: ignore[arg-type]
    return said


def heartbeat(status: str = "ACTIVE", reason: str = "", tokens_per_sec: float = 1.0) -> pb.HeartbeatStreamRequest:
    """A heartbeat without facts."""
    return pb.HeartbeatStreamRequest(
        load=pb.NodeLoad(current_tokens_per_sec=tokens_per_sec),
        status=pb.NodeStatus.Value(f"NODE_STATUS_{status}"),
        status_reason=reason,
    )


class FakeStream:
    """The server's end of a heartbeat stream: what it was sent is in `sent`."""

    def __init__(self) -> None:
        self.sent: list[pb.HeartbeatStreamResponse] = []
        self.session = HeartbeatSession(write=self._write, next_heartbeat_ms=5_000)

    async def _write(self, message: pb.HeartbeatStreamResponse) -> None:
        self.sent.append(message)


class FakeWitnessSink:
    """An accountant. It keeps what it was given in `calls`, and fails with `error` as long as that is set."""

    def __init__(self) -> None:
        self.calls: list[list[accountant_pb.Witness]] = []
        self.error: CodedError | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.refuse: dict[bytes, str] = {}
        self.poison: bytes = b""
        self.poison_error: CodedError | None = None

    async def record(self, witnesses: Sequence[accountant_pb.Witness]) -> list[str]:
        self.calls.append(list(witnesses))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        if self.poison_error is not None and any(witness.sealed_context == self.poison for witness in witnesses):
            raise self.poison_error
        return [self.refuse.get(witness.sealed_context, "") for witness in witnesses]


class World:
    """One replica of the registry without its sockets. Give two of them one store to have two replicas."""

    def __init__(
        self,
        *,
        store: FakeRegistryStore | None = None,
        clock: FakeRegistryClock | None = None,
        origin: str = "this",
    ) -> None:
        self.clock = clock or FakeRegistryClock()
        self.store = store or FakeRegistryStore(self.clock)
        self.observations = Observations()
        self.changes = ChangeLog(store=self.store, origin=origin, observations=self.observations)
        self.watchers = Watchers(new=lambda: Watcher(gather_s=0.0))
        self.fleet = Fleet(
            store=self.store,
            changes=self.changes,
            watchers=self.watchers,
            clock=self.clock,
            silence=SILENCE,
            origin=origin,
            observations=self.observations,
        )
        self.silence_watch = SilenceWatch(
            fleet=self.fleet, clock=self.clock, silence=SILENCE, observations=self.observations
        )
        self._ids = Uuid7Source()

    async def join(self, org_id: str = "") -> str:
        """A node that joined and has said nothing yet."""
        token = self._ids.next().bytes
        await self.store.add_join_token(token, org_id, self.clock.now() + timedelta(minutes=1))
        node = await self.store.consume_join_token(
            token, str(self._ids.next()), self.clock.now(), key_sha256=token, origin="this"
        )
        self.fleet.adopt(node, link="here")
        return node.id

    async def speak(self, node_id: str, status: str = "ACTIVE") -> FakeStream:
        """A stream of the node's whose first message was taken."""
        stream = FakeStream()
        await self.fleet.connect(node_id, stream.session)
        first = heartbeat(status)
        first.facts.CopyFrom(facts())
        self.fleet.hear(node_id, stream.session, first)
        return stream

    async def active(self) -> tuple[str, FakeStream]:
        """An active node, and its stream."""
        node_id = await self.join()
        stream = await self.speak(node_id)
        await self.changes.write()
        return node_id, stream

    def node(self, node_id: str) -> pb.Node:
        """The node as watchers see it."""
        return next(node for node in self.fleet.nodes() if node.id == node_id)

    def silence(self, seconds: float) -> None:
        """Time passes, and the registry looks."""
        self.clock.pass_s(seconds)
        self.silence_watch.look()

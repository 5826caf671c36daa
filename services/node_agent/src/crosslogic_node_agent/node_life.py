"""Where this node is in its life, of which its engine's is a part."""

import asyncio

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_node_agent.domain import EngineState, EngineStatus
from crosslogic_node_agent.spot.notice import NoticeKind, SpotNotice


class NodeLife:
    """Whether the node takes requests. `changed` is set when that is new, `leaving` when the machine is to go."""

    def __init__(self) -> None:
        self._drain_asked = False
        self._stopping = ""
        self.notice: SpotNotice | None = None
        """What the cloud told of the machine's end."""
        self.changed = asyncio.Event()
        self.leaving = asyncio.Event()

    @property
    def draining(self) -> bool:
        """It takes nothing new."""
        return self._drain_asked or bool(self._stopping)

    @property
    def goodbye(self) -> str:
        """Why the node is gone once it is."""
        return self._stopping or "the agent was stopped"

    def drain_asked(self, asked: bool) -> None:
        """The registry's word on draining, with each of its answers."""
        if asked != self._drain_asked:
            self._drain_asked = asked
            self.changed.set()

    def spot(self, notice: SpotNotice | None) -> None:
        """The cloud's word on the machine's end; None: it was withdrawn."""
        self.notice = notice
        if notice is not None and notice.kind is NoticeKind.TERMINATION:
            self.stop(notice.reason)
            self.leaving.set()
        self.changed.set()

    def stop(self, reason: str = "the agent is stopping") -> None:
        """The node takes nothing new from now on, for good. The first reason holds."""
        self._stopping = self._stopping or reason
        self.changed.set()

    def status(self, engine: EngineState) -> tuple[pb.NodeStatus.ValueType, str]:
        """What to say of this node, and why."""
        if self._stopping:
            return pb.NODE_STATUS_DRAINING, self._stopping
        if self._drain_asked:
            return pb.NODE_STATUS_DRAINING, "drained by an operator"
        if engine.status is EngineStatus.READY:
            return pb.NODE_STATUS_ACTIVE, ""
        return pb.NODE_STATUS_WARMING, engine.reason

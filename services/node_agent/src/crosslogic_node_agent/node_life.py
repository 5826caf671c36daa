"""Where this node is in its life, of which its engine's is a part."""

import asyncio

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_node_agent.domain import EngineState, EngineStatus


class NodeLife:
    """Whether the node takes requests. `changed` is set when that is new."""

    def __init__(self) -> None:
        self._drain_asked = False
        self._stopping = False
        self.changed = asyncio.Event()

    @property
    def draining(self) -> bool:
        """It takes nothing new."""
        return self._drain_asked or self._stopping

    def drain_asked(self, asked: bool) -> None:
        """The registry's word on draining, with each of its answers."""
        if asked != self._drain_asked:
            self._drain_asked = asked
            self.changed.set()

    def stop(self) -> None:
        """The agent begins to stop."""
        self._stopping = True
        self.changed.set()

    def status(self, engine: EngineState) -> tuple[pb.NodeStatus.ValueType, str]:
        """What to say of this node, and why."""
        if self._stopping:
            return pb.NODE_STATUS_DRAINING, "the agent is stopping"
        if self._drain_asked:
            return pb.NODE_STATUS_DRAINING, "drained by an operator"
        if engine.status is EngineStatus.READY:
            return pb.NODE_STATUS_ACTIVE, ""
        return pb.NODE_STATUS_WARMING, engine.reason

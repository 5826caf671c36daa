"""The picker and the relay of a gateway that traces. One that does not uses neither, and pays for neither."""

from typing import Any

from opentelemetry import context

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic.scheduler.v1 import scheduler_pb2 as scheduler_pb
from crosslogic_gateway.answers import Answer
from crosslogic_gateway.domain import Route
from crosslogic_gateway.picker import Picker
from crosslogic_gateway.relay import NodeLink
from crosslogic_gateway.request_traces import current_trace


class TracedPicker(Picker):
    """Tells the scheduler which span a pick belongs to."""

    async def pick(self, *, model: str, **how: Any) -> Route:
        """As Picker's, in a span of its own."""
        found = current_trace()
        if found is None:
            return await super().pick(model=model, **how)
        with found.pick(model):
            return await super().pick(model=model, **how)

    def _told(self, request: bytes) -> bytes:
        found = current_trace()
        if found is None or not found.picking:
            return request
        # Messages that are written one after the other are read as one.
        return request + scheduler_pb.PickRequest(traceparent=found.picking).SerializeToString()

    async def _pick_ahead(self, *what: Any) -> None:
        # It is for a later request, although this one caused it.
        context.attach(context.Context())
        await super()._pick_ahead(*what)


class TracedLink(NodeLink):
    """Tells a node which span a call belongs to."""

    def open(self, request: agent_pb.RelayOpen, answer: Answer) -> int:
        """As NodeLink's."""
        found = current_trace()
        if found is not None:
            found.attempt(self.route, request, answer)
        return super().open(request, answer)

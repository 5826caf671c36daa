"""How an engine is asked, and how its answers are read."""

from typing import Protocol

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_node_agent.answer_readers import AnswerReader, make_reader
from crosslogic_node_agent.engine_connection import request_bytes
from crosslogic_node_agent.engine_request import EngineRequest, Templates, build_request


class Dialect(Protocol):
    """One kind of engine."""

    reads_on_s: float
    """How long an answer whose client left is read on for its count, in seconds. 0: the engine tells a running count,
    and is told at once."""

    def request(self, opened: pb.RelayOpen, engine_model: str) -> EngineRequest:
        """The engine's request for a call. `engine_model` is the model's name there. Raises CodedError."""

    def reader(self, opened: pb.RelayOpen, request: EngineRequest) -> AnswerReader:
        """What reads the answer."""

    def wire(self, request: EngineRequest) -> bytes:
        """The request as it is sent."""


class VllmDialect:
    """vLLM, and engines that speak as it does."""

    def __init__(self, templates: Templates | None) -> None:
        """Without `templates` the engine itself answers whole what is wanted whole."""
        self.reads_on_s = 0.0
        self._templates = templates

    def request(self, opened: pb.RelayOpen, engine_model: str) -> EngineRequest:
        """The request. Raises INVALID_ARGUMENT, REQUEST_TOO_LARGE."""
        return build_request(opened, engine_model=engine_model, templates=self._templates)

    def reader(self, opened: pb.RelayOpen, request: EngineRequest) -> AnswerReader:
        """What reads the answer."""
        return make_reader(opened, request)

    def wire(self, request: EngineRequest) -> bytes:
        """The request as it is sent."""
        return request_bytes("POST", request.path, request.body, request.request_id, request.traceparent)

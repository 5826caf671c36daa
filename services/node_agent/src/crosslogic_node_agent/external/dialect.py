"""An endpoint of somebody else's as the relay speaks to it."""

import asyncio
from collections.abc import Callable
from typing import Final

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_common.errors import ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_node_agent.answer_readers import AnswerReader
from crosslogic_node_agent.engine_request import EngineRequest
from crosslogic_node_agent.external.answers import ExternalReader
from crosslogic_node_agent.external.refusals import OUR_FAULT_S, Refusal
from crosslogic_node_agent.external.request import external_request
from crosslogic_node_agent.external.terms import ExternalTerms, StreamUsage

LOG_EVERY_S: Final = 10.0
"""Faults that clients bring about must not fill the log."""
READS_ON_S: Final = 4.0
"""A gateway waits 5 s for the count of a client that left."""
_AGENT: Final = "crosslogic"


class Standing:
    """Whether the endpoint took this relay's key when it was last used."""

    def __init__(self, *, hold_s: float = OUR_FAULT_S) -> None:
        """What was found holds for `hold_s`: then a client's request is let try again."""
        self._hold_s = hold_s
        self._refused_at: float | None = None
        self._logged_at: float | None = None
        self._log = get_logger(__name__)
        self.on_refused: Callable[[], None] = lambda: None

    @property
    def refused(self) -> bool:
        """It did not, and that was not long ago: it is not worth a client's request to try again."""
        if self._refused_at is None:
            return False
        return asyncio.get_running_loop().time() - self._refused_at < self._hold_s

    def forgive(self) -> None:
        """What was found is of a key that is no more."""
        self._refused_at = None

    def take(self, refusal: Refusal) -> None:
        """A request was refused."""
        now = asyncio.get_running_loop().time()
        if refusal.our_fault:
            self._refused_at = now
            self.on_refused()
        if refusal.error.code is ErrorCode.ENGINE_ERROR and (
            self._logged_at is None or now - self._logged_at >= LOG_EVERY_S
        ):
            self._logged_at = now
            self._log.warning("the endpoint failed a request", reason=refusal.error.private)


class ExternalDialect:
    """OpenAI's API and nothing beyond it."""

    def __init__(self, terms: ExternalTerms, standing: Standing) -> None:
        self.reads_on_s = 0.0 if terms.usage is StreamUsage.CONTINUOUS else READS_ON_S
        self._terms = terms
        self._standing = standing

    def request(self, opened: pb.RelayOpen, engine_model: str) -> EngineRequest:  # noqa: ARG002  # the protocol's
        """The endpoint's request for a call. Raises what `external_request` raises."""
        return external_request(opened, terms=self._terms)

    def reader(self, opened: pb.RelayOpen, request: EngineRequest) -> AnswerReader:
        """What reads the answer."""
        return ExternalReader(request, self._terms, include_usage=opened.include_usage, on_refusal=self._standing.take)

    def wire(self, request: EngineRequest) -> bytes:
        """The request as it is sent: neither its id here nor its trace."""
        return external_bytes(self._terms, "POST", request.path, request.body)


def external_bytes(terms: ExternalTerms, method: str, path: str, body: bytes = b"") -> bytes:
    """An HTTP/1.1 request with the relay's key."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {terms.url.authority}\r\nUser-Agent: {_AGENT}\r\n"
    head += "Accept-Encoding: identity\r\n"
    head += terms.key.header_line
    if body or method == "POST":
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + "\r\n").encode("ascii") + body

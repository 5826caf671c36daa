"""A request that may run, and how far it has come."""

from dataclasses import dataclass

from aiohttp import web

from crosslogic_gateway.admission.ticket import Ticket
from crosslogic_gateway.answers import Answer
from crosslogic_gateway.body import InferenceBody
from crosslogic_gateway.domain import Model, Principal, Route
from crosslogic_gateway.prices import Rate
from crosslogic_gateway.relay import NodeLink
from crosslogic_gateway.resumption import Relayed
from crosslogic_gateway.shedding.overload import Decide


@dataclass(frozen=True, slots=True)
class Api:
    """One inference API: its path and how the engine knows it."""

    path: str
    engine_api: int


@dataclass(frozen=True, slots=True)
class Job:
    """A request that may run: what every attempt at it needs."""

    request: web.Request
    api: Api
    principal: Principal
    model: Model
    body: InferenceBody
    raw: bytes
    """The client's body, as sent."""
    ticket: Ticket
    """What admission holds for it; settled where its usage record is made."""
    reserved: bool = False
    """It is within its organisation's reserved capacity: it must not wait at a node."""
    decide: Decide | None = None
    """Where admission is still being asked: it must have let the request in before the client is told anything."""


@dataclass(slots=True)
class Attempt:
    """One node's work on a request."""

    context: bytes
    """The serialised RequestContext."""
    rate: Rate
    route: Route
    link: NodeLink
    call_id: int
    answer: Answer
    opened_at: float
    """The event loop's time."""


@dataclass(slots=True)
class Run:
    """A request under way."""

    job: Job
    received_at: float
    admitted_us: int
    """Wall clock; the price in force then counts for all attempts."""
    deadline: float
    """The loop's time until which another node may be asked."""
    attempt: Attempt | None = None
    """The last one. None until a node was asked."""
    tried: tuple[str, ...] = ()
    """Nodes that worked on it, in their order; none is asked twice."""
    fruitless: int = 0
    """Attempts that failed since one brought the stream on."""
    relayed: Relayed | None = None
    """What the client has of a stream that broke."""
    resumed: bool = False
    http_status: int = 0
    first_byte_at: float = 0.0
    recorded: bool = False
    undecided: Decide | None = None
    """The job's `decide`, until it was called."""

"""What a request passes between admission and the nodes: its reserved capacity, else its turn."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admission.ticket import Ticket
from crosslogic_gateway.body import InferenceBody
from crosslogic_gateway.domain import Model, Principal
from crosslogic_gateway.shedding.domain import (
    PRIORITY_HEADER,
    QUEUE_TIMEOUT_HEADER,
    overloaded,
    queue_timeout_s,
    rank_of,
)
from crosslogic_gateway.shedding.gate import Asked, Gate, Pass
from crosslogic_gateway.shedding.reserved import Meter, ReservedMeters
from crosslogic_gateway.shedding.service_turns import Turn
from crosslogic_gateway.shedding.yielding import YIELD_S, Yielding

OVERAGE_MARK = "/overage"
"""Follows the plan's name in the record of a request beyond reserved capacity that is billed as serverless."""
ASSUMED_TOKENS = 256
"""Taken of a request that does not say how much it wants: for its place in the queue only."""
_BYTES_A_TOKEN = 4
Decide = Callable[[], Awaitable[None]]
"""Waits for a request's admission. Raises its refusal."""


@dataclass(slots=True, eq=False)
class Claim:
    """What a request goes on as. End it with `Overload.leave`, once."""

    principal: Principal
    """Whom it is billed to, under which plan."""
    turn: Turn
    units: int = 0
    """Capacity units within which it runs. 0: it has none, or is beyond them."""
    meter: Meter | None = None
    taken: float = 0.0
    """Tokens that were taken for it."""
    passed: Pass | None = None

    @property
    def reserved(self) -> bool:
        """It is within reserved capacity, and goes on whoever else does not."""
        return self.meter is not None

    def used(self, completion_tokens: int) -> None:
        """So much was generated for it; only the first word counts."""
        meter, self.meter = self.meter, None
        if meter is not None:
            ReservedMeters.settle(meter, self.taken, completion_tokens)


class MeteredTicket:
    """A ticket that also settles reserved capacity, with what was generated."""

    def __init__(self, ticket: Ticket, claim: Claim) -> None:
        self._ticket = ticket
        self._claim = claim

    @property
    def kept(self) -> bool:
        """See Ticket."""
        return self._ticket.kept

    @property
    def completion_cap(self) -> int:
        """See Ticket."""
        return self._ticket.completion_cap

    def keep(self) -> None:
        """See Ticket."""
        self._ticket.keep()

    def settle(self, *, prompt_tokens: int, completion_tokens: int, cost_picodollars: int) -> None:
        """See Ticket."""
        self._claim.used(completion_tokens)
        self._ticket.settle(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_picodollars=cost_picodollars
        )

    def release(self) -> None:
        """See Ticket."""
        self._claim.used(0)
        self._ticket.release()


class Overload:
    """The gate and the meters of one worker."""

    def __init__(self, *, gate: Gate, meters: ReservedMeters, queue_wait_s: float) -> None:
        """A request waits `queue_wait_s` seconds at most, unless it says otherwise."""
        self._gate = gate
        self._meters = meters
        self._queue_wait_s = queue_wait_s
        self._yielding = Yielding()

    async def claim(self, headers: Mapping[str, str], principal: Principal, model: Model, body: InferenceBody) -> Claim:
        """What a request goes on as: within reserved capacity, or as anybody's.

        Raises OVERLOADED beyond capacity that is all the organisation's plan gives it, and INVALID_ARGUMENT for a
        header with nonsense.
        """
        claim = Claim(
            principal,
            Turn(
                rank_of(principal.priority, headers.get(PRIORITY_HEADER)),
                queue_timeout_s(headers.get(QUEUE_TIMEOUT_HEADER), self._queue_wait_s),
            ),
        )
        if principal.reserved:
            units = principal.reserved_units.get(model.name, 0)
            most = (body.max_tokens or model.context_length) * body.choices * body.inputs
            taken = await self._meters.take(principal.org_id, model.name, units, most) if units else None
            if taken is None:
                claim.principal = self._beyond(principal, model, units)
            else:
                claim.units, (claim.meter, claim.taken) = units, taken
        if claim.meter is None and self._yielding.yields(claim.turn.rank, self._gate.now()):
            self._gate.refused[claim.turn.rank] += 1
            raise overloaded(YIELD_S, "the service is at its limit and refuses higher priorities")
        return claim

    def refused_by_service(self, claim: Claim) -> None:
        """The request met the limits of the whole service: lower priorities yield for a moment."""
        self._gate.refused[claim.turn.rank] += 1
        self._yielding.refused(claim.turn.rank, self._gate.now())

    async def enter(
        self, claim: Claim, model: Model, body: InferenceBody, raw_size: int, decide: Decide | None = None
    ) -> None:
        """Returns once the request may go on. Before it waits, `decide` is called.

        Raises OVERLOADED, and what `decide` raises.
        """
        principal = claim.principal
        tokens = (body.max_tokens or ASSUMED_TOKENS) * body.choices * body.inputs + raw_size // _BYTES_A_TOKEN
        asked = Asked(
            model.name, principal.region, principal.org_id, claim.turn.rank, tokens, claim.turn.timeout_s, claim.units
        )
        claim.passed = self._gate.try_enter(asked)
        if claim.passed is None:
            if decide is not None:
                await decide()
            claim.passed = await self._gate.enter(asked)

    def leave(self, claim: Claim) -> None:
        """The request ended, or went nowhere."""
        passed, claim.passed = claim.passed, None
        if passed is not None:
            self._gate.leave(passed)

    def _beyond(self, principal: Principal, model: Model, units: int) -> Principal:
        """What a request beyond reserved capacity goes on as. Raises OVERLOADED where the plan sheds it."""
        if not principal.overage_billed:
            if not units:
                raise CodedError(
                    ErrorCode.OVERLOADED,
                    "This organisation has no reserved capacity of this model.",
                    retry_after_s=60.0,
                )
            raise CodedError(
                ErrorCode.OVERLOADED,
                f"The reserved capacity of {units} tokens per second is used up.",
                retry_after_s=max(1.0, self._meters.retry_after_s(principal.org_id, model.name)),
            )
        return replace(principal, plan=f"{principal.plan}{OVERAGE_MARK}")

"""The ticket of a request that holds something."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from crosslogic_gateway.admission.estimate import Estimate
from crosslogic_gateway.admission.limits import Spec
from crosslogic_gateway.admission.local import Held
from crosslogic_gateway.admission.pipe import Result
from crosslogic_gateway.admission.view import View


@dataclass(frozen=True, slots=True)
class Undecided:
    """A request that goes on while Redis is asked."""

    view: View
    answer: asyncio.Future[Result]


class Settles(Protocol):
    """Who takes back what a ticket held."""

    def ended(self, ticket: "HeldTicket", prompt_tokens: int, completion_tokens: int, cost_picodollars: int) -> None:
        """The request ended. Called once a ticket."""


class HeldTicket:
    """See `ticket.Ticket`."""

    __slots__ = (
        "_done",
        "_settles",
        "completion_cap",
        "completion_tokens",
        "cost_picodollars",
        "global_at",
        "headers",
        "id",
        "kept",
        "local",
        "prompt",
        "spec",
        "undecided",
        "unsure",
    )

    def __init__(
        self,
        ticket_id: str,
        spec: Spec,
        settles: Settles,
        *,
        prompt: Estimate | None,
        completion_tokens: int,
        cost_picodollars: int,
        completion_cap: int,
    ) -> None:
        """`prompt` is None where neither tokens nor money are limited."""
        self.id = ticket_id
        self.spec = spec
        self.prompt = prompt
        self.completion_tokens = completion_tokens
        self.cost_picodollars = cost_picodollars
        self.completion_cap = completion_cap
        self.headers = ""
        self.kept = False
        self.local: Held | None = None
        """What it holds of this worker's shares. None: Redis let it in."""
        self.global_at = 0
        """When the batch of the whole service's limits was taken that it came from. 0: from none."""
        self.unsure = False
        """Redis was asked and did not answer in time: it may hold this too."""
        self.undecided: Undecided | None = None
        """Redis was asked and has not answered yet: see `Admission.decide`. None: the request is let in."""
        self._settles = settles
        self._done = False

    @property
    def prompt_tokens(self) -> int:
        """Held for the prompt."""
        return 0 if self.prompt is None else self.prompt.tokens

    def keep(self) -> None:
        """The handler ends before the request is settled."""
        self.kept = True

    def settle(self, *, prompt_tokens: int, completion_tokens: int, cost_picodollars: int) -> None:
        """The request ended and used this much."""
        if not self._done:
            self._done = True
            self._settles.ended(self, prompt_tokens, completion_tokens, cost_picodollars)

    def void(self) -> None:
        """It was refused: there is nothing to give back."""
        self._done = True

    def release(self) -> None:
        """The request ended and used nothing."""
        if not self._done:
            self._done = True
            self._settles.ended(self, 0, 0, 0)

"""What a request that was let in holds until it ends."""

from typing import Protocol


class Ticket(Protocol):
    """Tokens, money and a place among the concurrent requests, held for one request.

    Whoever ends the request calls `settle` or `release`; only the first of these calls counts, and neither waits.
    """

    @property
    def kept(self) -> bool:
        """Somebody other than the request's handler will end it: see `keep`."""

    @property
    def completion_cap(self) -> int:
        """What the answer is cut at where the request names no limit, in tokens. 0: nowhere."""

    def keep(self) -> None:
        """The handler ends before the request is settled (its client left): whoever calls this settles or releases."""

    def settle(self, *, prompt_tokens: int, completion_tokens: int, cost_picodollars: int) -> None:
        """The request ended and used this much: what was held beyond it is given back."""

    def release(self) -> None:
        """The request ended and used nothing: all that was held is given back."""


class FreeTicket:
    """A ticket that holds nothing."""

    kept = False
    completion_cap = 0

    def keep(self) -> None:
        """Nothing is held."""

    def settle(self, *, prompt_tokens: int, completion_tokens: int, cost_picodollars: int) -> None:
        """Nothing is held."""

    def release(self) -> None:
        """Nothing is held."""

"""What idempotency needs of the world."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from aiohttp import web

from crosslogic_gateway.idempotency.domain import Claim, Head, Names, Progress

Run = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Carries a request out."""


class AnswersOnce(Protocol):
    """Carries a request with an `Idempotency-Key` out once."""

    async def answer(self, request: web.Request, *, scope: str, run: Run) -> web.StreamResponse:
        """The answer to a request of `scope` (whose key it is) that `run` would carry out. Raises CodedError."""


class AnswerStore(Protocol):
    """Where first answers lie, for every gateway worker. Every method raises UNAVAILABLE when it is away."""

    async def claim(self, names: Names, *, owner: str, request_id: str) -> Claim:
        """Claims the key for `owner`, if nobody works on it or has answered."""

    async def extend(
        self, names: Names, *, owner: str, written: int, head: Head | None, parts: Sequence[bytes]
    ) -> bool | None:
        """Keeps the claim alive, adds parts to the `written` ones. True: somebody waits for more. None: it is lost."""

    async def restart(self, names: Names, *, owner: str, new_owner: str) -> bool:
        """Throws written parts away; the owner goes on as `new_owner`. False: the claim is lost."""

    async def finish(
        self, names: Names, *, owner: str, request_id: str, written: int, head: Head, parts: Sequence[bytes]
    ) -> bool:
        """The answer is complete with these last parts. False: it could not be kept, another worker has the claim."""

    async def drop(self, names: Names, *, owner: str, request_id: str) -> None:
        """The request was answered, and the answer is not kept."""

    async def release(self, names: Names, *, owner: str) -> None:
        """Nothing came of the request: the key is free again."""

    async def read(self, names: Names, *, first_part: int) -> Progress:
        """The answer as far as it is there, from a part on."""

    async def spend(self, scope: str, byte_count: int) -> bool:
        """Counts bytes against what a caller may have kept. False: that is too much."""

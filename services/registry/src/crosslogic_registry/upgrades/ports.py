"""What model upgrades need from the world."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from crosslogic_registry.members import Member
from crosslogic_registry.upgrades.domain import Counts, Move, Outcomes, Upgrade, Wish

Decide = Callable[[Upgrade, Outcomes], Move | None]
OutcomeKey = tuple[str, bool]
"""An upgrade, and whether it is its new version."""


class UpgradeStore(Protocol):
    """Upgrades, kept durably. Every method raises UNAVAILABLE while the store is away."""

    async def start(self, upgrade_id: str, wish: Wish) -> Upgrade:
        """Starts one, or finds the one with this id. Raises NOT_FOUND (the model), CONFLICT."""

    async def get(self, upgrade_id: str) -> tuple[Upgrade, Outcomes]:
        """One with what was seen. Raises NOT_FOUND."""

    async def page(self, model: str, *, before: int, limit: int) -> list[tuple[Upgrade, Outcomes]]:
        """Newest first, numbered less than `before` (0: the newest); `model` empty: of all models."""

    async def under_way(self) -> list[Upgrade]:
        """Those that have not ended."""

    async def add_outcomes(self, seen: Mapping[OutcomeKey, Counts]) -> None:
        """Adds what was seen at the step that each upgrade is at; of those that have ended nothing is kept."""

    async def move(self, upgrade_id: str, decide: Decide, *, wait: bool) -> Upgrade | None:
        """Moves an upgrade to where `decide` says, and the catalogue with it, or neither.

        One replica at a time decides; None: another one does, or `decide` left it. `wait`: until the other is done.
        Raises NOT_FOUND, and what `decide` raises.
        """


class Nodes(Protocol):
    """The fleet, as far as upgrades need it."""

    def members(self) -> Iterable[Member]:
        """All nodes."""

    def known(self, node_id: str) -> Member | None:
        """A node."""

    async def drain(self, node_id: str) -> object:
        """Takes a node out of picking. Raises NOT_FOUND, UNAVAILABLE."""

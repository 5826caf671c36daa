"""Who may send how much to a lane. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GIVEN_BACK_IN_S = 1.0
"""Within this time reserved capacity that serverless requests borrowed is free again."""
FILL = 0.9
"""Of a lane's places, the part that serverless requests are let into: nodes do not fill evenly, and nobody can overtake
in a queue at a node."""
CAUTION = 0.5
"""Of what ends by itself in that time, the part that is counted on: requests do not end evenly."""


@dataclass(frozen=True, slots=True)
class Use:
    """What one gateway uses of a lane."""

    in_flight: int = 0
    ended_per_s: float = 0.0
    waiting: int = 0
    reserved_in_flight: int = 0
    reservations: Mapping[str, int] = field(default_factory=dict)
    """Capacity units by organisation."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a lane's nodes can do together."""

    slots: float
    """Requests at once."""
    tokens_per_s: float


def serverless_slots(capacity: Capacity, uses: Sequence[Use]) -> float:
    """How many requests without reserved capacity a lane takes.

    Reserved capacity is the part of the slots that its capacity units are of the nodes' speed. Of what nobody uses of
    it now, so much is lent as comes back by itself within a second; the rest stays free. What is in use beyond it, in
    a burst that its organisation has saved up for, is taken from the others.
    """
    reserved_in_flight = sum(use.reserved_in_flight for use in uses)
    units: dict[str, int] = {}
    for use in uses:
        units.update(use.reservations)
    part = min(1.0, sum(units.values()) / capacity.tokens_per_s) if units else 0.0
    reserved = math.ceil(part * capacity.slots) if part else 0
    unused = max(0, reserved - reserved_in_flight)
    ended_per_s = sum(use.ended_per_s for use in uses)
    lent = min(unused, math.floor(ended_per_s * GIVEN_BACK_IN_S * CAUTION))
    return capacity.slots * FILL - reserved_in_flight - (unused - lent)


def share(slots: float, mine: Use, others: Sequence[Use]) -> int:
    """How many of a lane's `slots` one gateway may use, at least 1.

    Each keeps what it has under way, and what is left is divided by what each has waiting. Where more is under way than
    there is room for, each goes down in proportion.
    """
    in_flight = mine.in_flight + sum(use.in_flight for use in others)
    free = slots - in_flight
    if free < 0:
        return max(1, math.floor(mine.in_flight * slots / in_flight))
    wanted = mine.waiting + 1
    # One that wants nothing now may want something before it is asked again.
    wanted_by_all = wanted + sum(use.waiting + 1 for use in others)
    return max(1, mine.in_flight + math.floor(free * wanted / wanted_by_all))

"""Which machine is launched where: the cheapest that meets the constraints, interruptions counted in. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from crosslogic_orchestrator.scaling.domain import Constraints, Offer, Strategy

UNKNOWN_PER_HOUR = 0.05
"""How often an hour a spot machine is taken back of which nothing is known: about once in a day."""
KNOWN_HOURS = 20.0
"""So many hours of machines weigh as much as what is assumed without any."""
AVAILABILITY_WEIGHT = 20.0
"""What an interruption costs more where availability is asked for."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of a price catalogue."""

    provider: str
    region: str
    """By the suite's name, where the region table has one."""
    instance_type: str
    gpu: str
    gpu_count: float
    vram_bytes: int
    """Of all accelerators together. 0: not told."""
    on_demand_picodollars: int | None
    """For an hour. None: not on offer."""
    spot_picodollars: int | None


@dataclass(frozen=True, slots=True)
class Lived:
    """How spot machines of a place fared."""

    hours: float
    taken: int


def rate_of(lived: Lived | None) -> float:
    """How often an hour such a machine is taken back: what was seen, weighed against what is assumed."""
    if lived is None:
        return UNKNOWN_PER_HOUR
    return (lived.taken + UNKNOWN_PER_HOUR * KNOWN_HOURS) / (lived.hours + KNOWN_HOURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is looked for."""

    constraints: Constraints
    strategy: Strategy
    region: str = ""
    """The suite's name of the deployment's region. Empty: any."""
    start_s: float = 120.0
    """How long a machine takes to serve: paid, and of no use."""
    lived: Mapping[str, Lived]
    """By place: `provider/region/type`."""
    failing: frozenset[str] = frozenset()
    """Places where a launch failed lately: only where there is no other."""
    counts: Mapping[str, int]
    """Machines of the deployment by place."""


def offers_of(kinds: Iterable[Kind], question: Question) -> tuple[Offer, ...]:
    """What can be launched, best first."""
    found = [offer for kind in kinds if _meets(kind, question) for offer in _priced(kind, question)]
    found.sort(key=lambda offer: (offer.place in question.failing, _crowd(offer, question), _key(offer)))
    return tuple(
        replace(offer, why=f"{offer.why}; launches failed there lately") if offer.place in question.failing else offer
        for offer in found
    )


def _key(offer: Offer) -> tuple[int, int, str]:
    return offer.expected_price_picodollars, offer.price_picodollars, offer.place


def _crowd(offer: Offer, question: Question) -> int:
    """Where machines are to be spread, the place with the fewest comes first."""
    return question.counts.get(offer.place, 0) if question.strategy == "spread" else 0


def _meets(kind: Kind, question: Question) -> bool:
    wanted = question.constraints
    return (
        (not wanted.providers or kind.provider in wanted.providers)
        and (not wanted.regions or kind.region in wanted.regions)
        and (not wanted.instance_types or kind.instance_type in wanted.instance_types)
        and (not wanted.gpu or kind.gpu.casefold() == wanted.gpu.casefold())
        and (not wanted.min_vram_bytes or kind.vram_bytes >= wanted.min_vram_bytes)
        and question.region in ("", kind.region)
    )


def _priced(kind: Kind, question: Question) -> Sequence[Offer]:
    bare = Offer(
        provider=kind.provider,
        region=kind.region,
        instance_type=kind.instance_type,
        spot=False,
        price_picodollars=kind.on_demand_picodollars or 0,
        expected_price_picodollars=kind.on_demand_picodollars or 0,
        gpu=kind.gpu,
        vram_bytes=kind.vram_bytes,
    )
    offers: list[Offer] = []
    if kind.on_demand_picodollars is not None:
        offers.append(replace(bare, why=f"{_dollars(kind.on_demand_picodollars)} an hour on demand"))
    if kind.spot_picodollars is not None:
        offers.append(_spot(bare, kind.spot_picodollars, question))
    return offers


def _spot(bare: Offer, price: int, question: Question) -> Offer:
    """Each interruption costs the start of another machine, and is dearer where availability is what counts."""
    per_hour = rate_of(question.lived.get(bare.place))
    weight = AVAILABILITY_WEIGHT if question.strategy == "availability" else 1.0
    lost = price * per_hour * question.start_s / 3600 * weight
    expected = round(price + lost)
    return replace(
        bare,
        spot=True,
        price_picodollars=price,
        expected_price_picodollars=expected,
        why=(
            f"{_dollars(price)} an hour as spot, {_dollars(expected)} with interruptions: "
            f"{per_hour:.3f} an hour, {question.start_s:.0f} s to start again"
        ),
    )


def _dollars(picodollars: int) -> str:
    return f"${picodollars / 1e12:.4f}"

"""Terms as they are stored: JSON with exact ratios. Mode, overage and reserved units are identity's, and not in it."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

from crosslogic_billing.rating.domain import Collection, Terms, Tier


def to_json(terms: Terms) -> dict[str, Any]:
    """As stored."""
    cap = terms.monthly_cap_picodollars
    return {
        "collection": terms.collection,
        "free_tokens": terms.free_tokens,
        "discount": _ratio(terms.discount),
        "tiers": [{"from_tokens": tier.from_tokens, "share": _ratio(tier.share)} for tier in terms.tiers],
        # As text: JSON's numbers are floats to many who read them.
        "monthly_cap_picodollars": None if cap is None else str(cap),
        "unit_fee_picodollars": str(terms.unit_fee_picodollars),
        "time_zone": terms.time_zone,
    }


def from_json(stored: Mapping[str, Any]) -> Terms:
    """As they were."""
    cap = stored["monthly_cap_picodollars"]
    return Terms(
        collection=cast("Collection", stored["collection"]),
        free_tokens=stored["free_tokens"],
        discount=Fraction(*stored["discount"]),
        tiers=tuple(Tier(tier["from_tokens"], Fraction(*tier["share"])) for tier in stored["tiers"]),
        monthly_cap_picodollars=None if cap is None else int(cap),
        unit_fee_picodollars=int(stored["unit_fee_picodollars"]),
        time_zone=stored["time_zone"],
    )


def _ratio(value: Fraction) -> list[int]:
    return [value.numerator, value.denominator]

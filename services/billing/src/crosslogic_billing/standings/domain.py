"""The words of standings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from crosslogic_billing.rating.domain import Mode, Overage


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgStanding:
    """An organisation from a time on."""

    org_id: str
    from_time: datetime
    plan: str
    reserved_units: Mapping[str, int] = field(default_factory=dict)
    mode: Mode | None = None
    """None: the plan's. Only what was agreed on here, before identity was asked, has its own."""
    overage: Overage | None = None
    """As `mode`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStanding:
    """A plan from a time on."""

    plan: str
    from_time: datetime
    mode: Mode
    overage: Overage


@dataclass(frozen=True, slots=True)
class Changes:
    """What identity has told of."""

    orgs: tuple[OrgStanding, ...]
    plans: tuple[PlanStanding, ...]


@dataclass(frozen=True, slots=True)
class Present:
    """How everything is now, at identity or here."""

    orgs: Mapping[str, tuple[str, Mapping[str, int]]]
    """Plan and reserved units by organisation."""
    plans: Mapping[str, tuple[Mode, Overage]]

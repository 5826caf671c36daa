"""The words of views."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from crosslogic_billing.rating.domain import Statement


@dataclass(frozen=True, slots=True)
class ReservedUse:
    """What one model's reserved capacity was used for."""

    model: str
    units: int
    tokens: int
    capacity_tokens: int
    """What the units would have given so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthView:
    """A month of an organisation."""

    org_id: str
    month: date
    begins: datetime
    ends: datetime
    statement: Statement
    exported: Mapping[str, int]
    """Pico-dollars in the outbox, by category."""
    forecast_picodollars: int
    free_tokens_left: int
    reserved: tuple[ReservedUse, ...]
    settled_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine costs, for a time."""

    node_id: str
    region: str
    gpu_type: str
    gpu_count: int
    spot: bool
    hourly_picodollars: int
    models: tuple[str, ...]
    begins: datetime
    ends: datetime | None
    """None: it runs."""


@dataclass(frozen=True, slots=True)
class HourOfUse:
    """What one model did in one region in one hour."""

    model: str
    region: str
    hour: datetime
    tokens: int
    revenue_picodollars: int


@dataclass(frozen=True, slots=True)
class FinopsRow:
    """Cost, revenue and margin of something."""

    name: str
    cost_picodollars: int
    revenue_picodollars: int
    tokens: int
    gpu_seconds: int

    @property
    def margin_picodollars(self) -> int:
        """Revenue less cost."""
        return self.revenue_picodollars - self.cost_picodollars

    @property
    def cost_per_million(self) -> int | None:
        """Of tokens, pico-dollars. None: there were none."""
        return round(self.cost_picodollars * 10**6 / self.tokens) if self.tokens else None

    @property
    def cost_per_gpu_hour(self) -> int | None:
        """Pico-dollars. None: there were none."""
        return self.cost_picodollars * 3_600 // self.gpu_seconds if self.gpu_seconds else None


@dataclass(frozen=True, slots=True)
class Finops:
    """Cost, revenue and margin of a period."""

    models: tuple[FinopsRow, ...]
    regions: tuple[FinopsRow, ...]
    markets: tuple[FinopsRow, ...]
    idle_picodollars: int
    total: FinopsRow

"""The words of budgets. Amounts are whole pico-dollars; periods are UTC's."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from uuid import UUID


class Scope(IntEnum):
    """The numbers are crosslogic.accountant.v1.SpendScope's and are stored."""

    ORG = 1
    DEPARTMENT = 2
    ENVIRONMENT = 3
    API_KEY = 4


class Period(IntEnum):
    """The numbers are crosslogic.accountant.v1.SpendPeriod's and are stored."""

    DAY = 1
    MONTH = 2


@dataclass(frozen=True, slots=True)
class Budget:
    """A sum that is not to be exceeded, or of which somebody is to be told."""

    id: UUID
    org_id: UUID
    scope: Scope
    scope_id: UUID | None
    """Of an environment or a key."""
    environment_ids: tuple[UUID, ...]
    """Of a department."""
    api_key_ids: tuple[UUID, ...]
    name: str
    period: Period
    limit_picodollars: int
    hard: bool
    thresholds_percent: tuple[int, ...]
    owners: tuple[str, ...]

    @property
    def subjects(self) -> tuple[tuple[Scope, UUID], ...]:
        """Whose spending counts. A request that several of them cover counts once."""
        if self.scope is Scope.DEPARTMENT:
            return (
                *((Scope.ENVIRONMENT, each) for each in self.environment_ids),
                *((Scope.API_KEY, each) for each in self.api_key_ids),
            )
        return ((self.scope, self.org_id if self.scope_id is None else self.scope_id),)


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget and where it stands."""

    budget: Budget
    create_time: datetime
    period_start: datetime
    spent_picodollars: int
    held_picodollars: int
    deleted: bool
    number: int
    version: int


@dataclass(frozen=True, slots=True)
class BudgetEvent:
    """A threshold was reached."""

    sequence: int
    budget_id: UUID
    org_id: UUID
    name: str
    owners: tuple[str, ...]
    period_start: datetime
    threshold_percent: int
    spent_picodollars: int
    limit_picodollars: int
    stopped: bool
    event_time: datetime


def period_start(period: Period, now: datetime) -> datetime:
    """When the period that `now` is in began."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if period is Period.DAY else day.replace(day=1)

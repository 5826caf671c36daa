"""The use cases of plans."""

from dataclasses import replace

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_identity import checks
from crosslogic_identity.domain import Actor, Plan, PlanChanges
from crosslogic_identity.ports import PlanStore
from crosslogic_identity.service import found


class Plans:
    """Named sets of limits and rules."""

    def __init__(self, *, store: PlanStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, name: str, asked: PlanChanges, by: Actor) -> Plan:
        """A new plan. ALREADY_EXISTS: the name."""
        now = self._clock.now()
        plan = Plan(name=checks.plan_name(name), created_at=now, updated_at=now)
        return await self._store.add_plan(replace(plan, **_checked(asked).values()), by)

    async def plan(self, name: str) -> Plan:
        """One plan."""
        return found(await self._store.plan(_known_form(name)))

    async def plans(self, after: str, limit: int) -> list[Plan]:
        """Plans, by name."""
        return await self._store.plans(after, limit)

    async def change(self, name: str, changes: PlanChanges, by: Actor) -> Plan:
        """Changes a plan, for everybody on it."""
        return await self._store.change_plan(_known_form(name), _checked(changes), by)


def _known_form(name: str) -> str:
    """A name that a plan can have: what has another form names nothing, and is not the database's to judge."""
    if not checks.is_plan_name(name):
        raise CodedError(ErrorCode.NOT_FOUND)
    return name


def _checked(changes: PlanChanges) -> PlanChanges:
    if changes.description is not None:
        checks.short("description", changes.description, 0, 1_000)
    for field in ("key_limits", "environment_limits", "org_limits"):
        limits = getattr(changes, field)
        if limits is not None:
            checks.limits(field, limits)
    for field in ("max_prompt_tokens", "max_output_tokens"):
        tokens = getattr(changes, field)
        if tokens is not None:
            checks.tokens(field, tokens)
    if changes.monthly_cap_picodollars is not None:
        checks.picodollars("monthly_cap_picodollars", changes.monthly_cap_picodollars)
    return changes

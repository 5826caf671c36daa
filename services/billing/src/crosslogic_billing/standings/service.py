"""What operators do with plans' terms."""

from dataclasses import dataclass, replace
from datetime import date

from crosslogic_billing.rating.domain import Mode, Overage, Terms
from crosslogic_billing.rating.policy import check_terms
from crosslogic_billing.standings.follower import Follower
from crosslogic_billing.standings.store import PostgresStandings
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """One version of a plan's terms, with what identity says of the plan now."""

    plan: str
    version: int
    """0: nothing was set, these are the usual terms."""
    from_month: date | None
    terms: Terms


class PlansTerms:
    """Terms of plans. Which plans there are, identity says."""

    def __init__(self, *, store: PostgresStandings, follower: Follower, clock: Clock) -> None:
        self._store = store
        self._follower = follower
        self._clock = clock

    async def of(self, plan: str, month: date) -> PlanTerms:
        """The version that holds in a month. Raises NOT_FOUND, UNAVAILABLE (identity)."""
        standing = await self._standing(plan)
        found = await self._store.plan_terms(plan, month)
        version, from_month, terms = found or (0, None, Terms())
        return PlanTerms(plan, version, from_month, replace(terms, mode=standing[0], overage=standing[1]))

    async def set(self, plan: str, from_month: date, terms: Terms) -> PlanTerms:
        """Makes the plan's next version. Raises NOT_FOUND, UNAVAILABLE (identity), INVALID_ARGUMENT."""
        if terms.time_zone != "UTC":
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT,
                "`time_zone` is agreed on with an organisation, not with a plan.",
                param="time_zone",
            )
        check_terms(terms)
        mode, overage = await self._standing(plan)
        version = await self._store.add_plan_terms(plan, from_month, terms, self._clock.now())
        return PlanTerms(plan, version, from_month, replace(terms, mode=mode, overage=overage))

    async def _standing(self, plan: str) -> tuple[Mode, Overage]:
        # Read now: a plan that was made a moment ago is there.
        await self._follower.read()
        standing = await self._store.plan(plan)
        if standing is None:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such plan.")
        return standing.mode, standing.overage

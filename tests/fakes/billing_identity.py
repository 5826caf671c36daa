"""Identity, as far as billing's terms need it: in memory, and away when a test says so."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from crosslogic_billing.rating.domain import Mode, Overage
from crosslogic_billing.standings.domain import Changes, OrgStanding, PlanStanding, Present
from crosslogic_common.errors import CodedError, ErrorCode


@dataclass
class FakeIdentity:
    """Implements standings.follower.Identity."""

    orgs: list[OrgStanding] = field(default_factory=list)
    plans: list[PlanStanding] = field(default_factory=list)
    away: bool = False

    def plan(self, name: str, at: datetime, mode: Mode = "serverless", overage: Overage = "bill") -> None:
        """A plan is made or changed."""
        self.plans.append(PlanStanding(plan=name, from_time=at, mode=mode, overage=overage))

    def org(self, org_id: str, at: datetime, plan: str = "default", units: Mapping[str, int] | None = None) -> None:
        """An organisation is made or changed."""
        self.orgs.append(OrgStanding(org_id=org_id, from_time=at, plan=plan, reserved_units=units or {}))

    async def changes(self, since: datetime | None) -> Changes:
        """See Identity. All of them: what is known already changes nothing."""
        self._there()
        return Changes(tuple(self.orgs), tuple(self.plans))

    async def present(self) -> Present:
        """See Identity."""
        self._there()
        return Present(
            {one.org_id: (one.plan, one.reserved_units) for one in self.orgs},
            {one.plan: (one.mode, one.overage) for one in self.plans},
        )

    def _there(self) -> None:
        if self.away:
            raise CodedError(ErrorCode.UNAVAILABLE, private="identity is away")

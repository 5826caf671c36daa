"""Identity, which knows every organisation's plan and capacity."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import grpc.aio

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic.identity.v1 import identity_pb2_grpc as rpc
from crosslogic_billing.rating.domain import Mode, Overage
from crosslogic_billing.standings.domain import Changes, OrgStanding, PlanStanding, Present
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.tls import Channels

_TIMEOUT_S = 10.0
_PAGE = 1_000
_MAX_PAGES = 1_000
_MODES: Mapping[int, Mode] = {pb.BILLING_MODE_RESERVED: "reserved"}
_OVERAGES: Mapping[int, Overage] = {pb.OVERAGE_POLICY_BILL: "bill"}


class IdentityStandings:
    """Reads identity over gRPC."""

    def __init__(self, *, channels: Channels, target: str) -> None:
        """`target` is host:port of identity."""
        self._channels = channels
        self._target = target

    async def changes(self, since: datetime | None) -> Changes:
        """What has changed since then (None: ever), in order. Raises UNAVAILABLE, TIMEOUT."""
        request = pb.ListTermChangesRequest(page_size=_PAGE)
        if since is not None:
            request.since_time.FromDatetime(since)
        found: list[pb.TermChange] = []
        for _ in range(_MAX_PAGES):
            try:
                page = await self._stub().ListTermChanges(request, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None
            found.extend(page.changes)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        return Changes(
            tuple(_org(change) for change in found if change.org_id),
            tuple(_plan(change) for change in found if not change.org_id),
        )

    async def present(self) -> Present:
        """How everything is now. Raises UNAVAILABLE, TIMEOUT."""
        orgs: dict[str, tuple[str, Mapping[str, int]]] = {}
        plans: dict[str, tuple[Mode, Overage]] = {}
        listed_orgs = pb.ListOrgsRequest(page_size=_PAGE)
        listed_plans = pb.ListPlansRequest(page_size=_PAGE)
        try:
            for _ in range(_MAX_PAGES):
                org_page = await self._stub().ListOrgs(listed_orgs, timeout=_TIMEOUT_S)
                orgs |= {org.id: (org.plan, _units(org.reserved_capacity)) for org in org_page.orgs}
                listed_orgs.page_token = org_page.next_page_token
                if not org_page.next_page_token:
                    break
            for _ in range(_MAX_PAGES):
                plan_page = await self._stub().ListPlans(listed_plans, timeout=_TIMEOUT_S)
                plans |= {plan.name: _rules(plan.billing_mode, plan.overage_policy) for plan in plan_page.plans}
                listed_plans.page_token = plan_page.next_page_token
                if not plan_page.next_page_token:
                    break
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return Present(orgs, plans)

    def _stub(self) -> "rpc.IdentityServiceAsyncStub":
        return rpc.IdentityServiceStub(self._channels.service("identity", self._target))


def _org(change: pb.TermChange) -> OrgStanding:
    return OrgStanding(
        org_id=change.org_id,
        from_time=change.from_time.ToDatetime(tzinfo=UTC),
        plan=change.plan,
        reserved_units=_units(change.reserved_capacity),
    )


def _plan(change: pb.TermChange) -> PlanStanding:
    mode, overage = _rules(change.billing_mode, change.overage_policy)
    return PlanStanding(plan=change.plan, from_time=change.from_time.ToDatetime(tzinfo=UTC), mode=mode, overage=overage)


def _rules(mode: int, overage: int) -> tuple[Mode, Overage]:
    return _MODES.get(mode, "serverless"), _OVERAGES.get(overage, "shed")


def _units(reserved: Iterable[pb.ReservedCapacity]) -> dict[str, int]:
    return {one.model: one.capacity_units for one in reserved}

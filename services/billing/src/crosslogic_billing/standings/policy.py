"""What an organisation's standing makes of its terms in a month, pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import TypeVar

from crosslogic_billing.rating.domain import Span, Terms
from crosslogic_billing.standings.domain import OrgStanding, PlanStanding, Present

_USUAL = Terms()
_MICROSECOND = timedelta(microseconds=1)
Standing = TypeVar("Standing", OrgStanding, PlanStanding)


def month_terms(
    *,
    alone: Terms | None,
    plans_terms: Mapping[str, Terms],
    orgs: Sequence[OrgStanding],
    plans: Mapping[str, Sequence[PlanStanding]],
    begins: datetime,
    ends: datetime,
) -> Terms:
    """The terms of a month from `begins` to `ends`.

    `alone`: what was agreed with the organisation itself, which takes the place of its plans' terms (`plans_terms`, the
    usual ones where a plan has none). Discount, tiers, free tokens, cap and collection are those of the plan that the
    month began with; mode, overage, units and their fee are each part's own. What came before identity's first word of
    it is charged by the token. `orgs` and each of `plans` are by time.
    """
    if not orgs or orgs[0].from_time >= ends:
        return alone or _USUAL
    spans: list[Span] = []
    points = _points(orgs, plans, begins, ends)
    for since, until in zip(points, [*points[1:], ends], strict=True):
        org = _last(orgs, since)
        plan = _last(plans[org.plan], since) if plans.get(org.plan) else None
        terms = alone or plans_terms.get(org.plan, _USUAL)
        spans.append(
            Span(
                begins=since,
                ends=until,
                share=_ratio(since, until, begins, ends),
                plan=org.plan,
                mode=org.mode or (plan.mode if plan else "serverless"),
                overage=org.overage or (plan.overage if plan else "bill"),
                reserved_units=org.reserved_units,
                unit_fee_picodollars=terms.unit_fee_picodollars,
            )
        )
    last = spans[-1]
    return replace(
        alone or plans_terms.get(spans[0].plan, _USUAL),
        mode=last.mode,
        overage=last.overage,
        reserved_units=last.reserved_units,
        unit_fee_picodollars=last.unit_fee_picodollars,
        spans=tuple(spans),
    )


def drift(at_identity: Present, here: Present) -> set[str]:
    """Organisations that stand otherwise here than at identity: by plan, units, or the plan's mode or overage."""

    def standing(present: Present, org_id: str) -> object:
        plan, units = present.orgs.get(org_id, ("", {}))
        return plan, dict(units), present.plans.get(plan)

    return {
        org_id for org_id in {*at_identity.orgs, *here.orgs} if standing(at_identity, org_id) != standing(here, org_id)
    }


def _points(
    orgs: Sequence[OrgStanding], plans: Mapping[str, Sequence[PlanStanding]], begins: datetime, ends: datetime
) -> list[datetime]:
    """Where parts of the month begin. An organisation that came within it is there from then on."""
    starts = max(begins, orgs[0].from_time)
    times = {org.from_time for org in orgs} | {plan.from_time for changes in plans.values() for plan in changes}
    return sorted({starts, *(time for time in times if starts < time < ends)})


def _last(changes: Sequence[Standing], moment: datetime) -> Standing:
    begun = [change for change in changes if change.from_time <= moment]
    return begun[-1] if begun else changes[0]


def _ratio(since: datetime, until: datetime, begins: datetime, ends: datetime) -> Fraction:
    return Fraction((until - since) // _MICROSECOND, (ends - begins) // _MICROSECOND)

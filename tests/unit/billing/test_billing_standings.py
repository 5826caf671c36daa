"""Terms follow what identity says, each part of a month by what held in it."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from crosslogic_billing.rating.domain import Mode, Overage, Priced, Terms
from crosslogic_billing.rating.policy import billable, free_tokens, month_bounds, monthly_fee
from crosslogic_billing.standings.domain import OrgStanding, PlanStanding, Present
from crosslogic_billing.standings.policy import drift, month_terms
from crosslogic_billing.views.policy import capacity_tokens

MONTH = date(2026, 11, 1)
BEGINS, ENDS = month_bounds(MONTH, "UTC")
MIDDLE = BEGINS + (ENDS - BEGINS) / 2
LONG_AGO = BEGINS - timedelta(days=400)
ORG = "0190-a"
RESERVED = {
    "big": [PlanStanding(plan="big", from_time=LONG_AGO, mode="reserved", overage="bill")],
    "default": [PlanStanding(plan="default", from_time=LONG_AGO, mode="serverless", overage="shed")],
}
BIG = Terms(unit_fee_picodollars=10**12, discount=Fraction(1, 2), free_tokens=0)


def org(at: datetime, plan: str, **units: int) -> OrgStanding:
    return OrgStanding(org_id=ORG, from_time=at, plan=plan, reserved_units=units)


def terms(*orgs: OrgStanding, alone: Terms | None = None) -> Terms:
    return month_terms(alone=alone, plans_terms={"big": BIG}, orgs=orgs, plans=RESERVED, begins=BEGINS, ends=ENDS)


def test_an_organisation_that_stays_on_its_plan_has_the_whole_fee_and_no_free_tokens() -> None:
    agreed = terms(org(LONG_AGO, "big", llama=3))
    assert (agreed.mode, agreed.overage, dict(agreed.reserved_units)) == ("reserved", "bill", {"llama": 3})
    assert (monthly_fee(agreed), free_tokens(agreed), agreed.discount) == (3 * 10**12, 0, Fraction(1, 2))


def test_a_plan_that_nobody_set_terms_for_has_the_usual_ones() -> None:
    agreed = terms(org(LONG_AGO, "default"))
    assert (free_tokens(agreed), monthly_fee(agreed), agreed.mode) == (25_000, 0, "serverless")
    assert month_terms(alone=None, plans_terms={}, orgs=(), plans={}, begins=BEGINS, ends=ENDS) == Terms()


def test_who_changes_to_reserved_in_mid_month_pays_half_the_fee_and_keeps_half_the_free_tokens() -> None:
    agreed = terms(org(LONG_AGO, "default"), org(MIDDLE, "big", llama=2))
    assert (monthly_fee(agreed), free_tokens(agreed)) == (10**12, 12_500)
    # The discount is the one that the month began with.
    assert (agreed.mode, agreed.discount) == ("reserved", Fraction(0))
    used = {("llama", Priced("standard", 7)): 500}
    assert billable(agreed, MIDDLE - timedelta(seconds=60), 60, used) == {Priced("standard", 7): 500}
    assert billable(agreed, MIDDLE, 60, used) == {Priced("standard", 7): 380}


def test_who_takes_more_capacity_pays_for_it_from_then_on() -> None:
    agreed = terms(org(LONG_AGO, "big", llama=2), org(MIDDLE, "big", llama=4, qwen=2))
    assert monthly_fee(agreed) == 10**12 + 3 * 10**12
    assert capacity_tokens(agreed, "llama", BEGINS, ENDS) == 15 * 86_400 * (2 + 4)
    assert capacity_tokens(agreed, "qwen", BEGINS, MIDDLE) == 0


def test_who_comes_in_mid_month_pays_from_then_on_and_has_all_free_tokens() -> None:
    assert monthly_fee(terms(org(MIDDLE, "big", llama=2))) == 10**12
    assert free_tokens(terms(org(MIDDLE, "default"))) == 25_000


def test_what_was_agreed_alone_takes_the_place_of_a_plans_terms_but_not_of_identitys_word() -> None:
    alone = Terms(unit_fee_picodollars=5, free_tokens=9, discount=Fraction(1, 4), time_zone="Asia/Kolkata")
    agreed = terms(org(LONG_AGO, "big", llama=2), alone=alone)
    assert (monthly_fee(agreed), agreed.discount, agreed.time_zone) == (10, Fraction(1, 4), "Asia/Kolkata")
    assert agreed.mode == "reserved"


def test_what_is_shed_in_one_part_of_a_month_is_charged_in_another() -> None:
    plans: dict[str, Sequence[PlanStanding]] = {
        "big": [
            PlanStanding(plan="big", from_time=LONG_AGO, mode="reserved", overage="shed"),
            PlanStanding(plan="big", from_time=MIDDLE, mode="reserved", overage="bill"),
        ]
    }
    agreed = month_terms(
        alone=None,
        plans_terms={},
        orgs=[org(LONG_AGO, "big", llama=1)],
        plans=plans,
        begins=BEGINS,
        ends=ENDS,
    )
    used = {("llama", Priced("standard", 7)): 100}
    assert billable(agreed, BEGINS, 60, used) == {}
    assert billable(agreed, MIDDLE, 60, used) == {Priced("standard", 7): 40}


def test_nothing_from_before_identitys_first_word_is_charged_by_it() -> None:
    late = org(ENDS + timedelta(days=3), "big", llama=1)
    assert terms(late) == Terms()
    assert terms(late, alone=BIG) == BIG
    # Within a month: what was used before by the token, and the window in which it came by what it says.
    agreed = terms(org(MIDDLE, "big", llama=1))
    used = {("llama", Priced("standard", 7)): 100}
    assert billable(agreed, MIDDLE - timedelta(seconds=60), 60, used) == {Priced("standard", 7): 100}
    assert billable(agreed, MIDDLE - timedelta(seconds=59), 60, used) == {Priced("standard", 7): 40}


@given(
    st.lists(
        st.tuples(st.integers(-(10**6), 3 * 10**6), st.sampled_from(["big", "default"]), st.integers(0, 50)),
        min_size=1,
        max_size=8,
        unique_by=lambda change: change[0],
    )
)
@settings(max_examples=100, deadline=None)
def test_a_months_parts_are_all_of_it_and_no_change_makes_a_fee_negative_or_more_than_the_dearest(
    changes: list[tuple[int, str, int]],
) -> None:
    orgs = [org(BEGINS + timedelta(seconds=at), plan, llama=units) for at, plan, units in sorted(changes)]
    agreed = terms(*orgs)
    if not agreed.spans:
        assert orgs[0].from_time >= ENDS
        return
    assert agreed.spans[-1].ends == ENDS
    for one, following in zip(agreed.spans, agreed.spans[1:], strict=False):
        assert one.begins < one.ends == following.begins
    assert sum(span.share for span in agreed.spans) <= 1
    assert 0 <= monthly_fee(agreed) <= max(units for _, _, units in changes) * 10**12
    assert 0 <= free_tokens(agreed) <= 25_000


def test_drift_is_a_difference_in_plan_units_or_the_plans_rules_and_nothing_else() -> None:
    plans: dict[str, tuple[Mode, Overage]] = {"default": ("serverless", "shed"), "big": ("reserved", "bill")}
    at_identity = Present({"a": ("big", {"llama": 1}), "b": ("default", {})}, plans)
    assert drift(at_identity, at_identity) == set()
    assert drift(at_identity, Present({"a": ("big", {"llama": 2}), "b": ("default", {})}, plans)) == {"a"}
    assert drift(at_identity, Present({"a": ("big", {"llama": 1})}, plans)) == {"b"}
    changed: dict[str, tuple[Mode, Overage]] = {
        **plans,
        "big": ("reserved", "shed"),
        "unused": ("serverless", "bill"),
    }
    assert drift(at_identity, Present(at_identity.orgs, changed)) == {"a"}

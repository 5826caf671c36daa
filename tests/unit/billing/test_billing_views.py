"""What customers and operators are shown: forecasts, machines' costs, and why a request cost what it cost."""

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslogic_billing.rating.domain import Priced, Terms
from crosslogic_billing.views.domain import HourOfUse, Machine
from crosslogic_billing.views.policy import finops, forecast, free_tokens_left, sentences

NOVEMBER = date(2026, 11, 1)
BEGINS = datetime(2026, 11, 1, tzinfo=UTC)
ENDS = datetime(2026, 12, 1, tzinfo=UTC)
LLAMA = Priced("llama", 1_000)
DOLLAR = 10**12
PAID = Terms(free_tokens=0)


def machine(**changes: object) -> Machine:
    facts: dict[str, object] = {
        "node_id": "n1",
        "region": "us-east",
        "gpu_type": "H100",
        "gpu_count": 2,
        "spot": True,
        "hourly_picodollars": 6 * DOLLAR,
        "models": ("llama", "qwen"),
        "begins": BEGINS,
        "ends": None,
    }
    return Machine(**{**facts, **changes})  # type: ignore[arg-type]


def in_november(days: float) -> datetime:
    return BEGINS + timedelta(days=days)


def test_a_month_that_goes_on_as_it_did_costs_in_proportion() -> None:
    for days, expected in ((10, 3_000_000), (15, 2_000_000), (30, 1_000_000)):
        used = {LLAMA: 1_000}
        lately = {LLAMA: 1_000 * min(days, 7) // days}
        found = forecast(NOVEMBER, PAID, used, lately, begins=BEGINS, ends=ENDS, now=in_november(days))
        assert abs(found - expected) <= expected // 200


def test_a_forecast_knows_of_free_tokens_and_of_the_cap() -> None:
    now = in_november(15)
    used, lately = {LLAMA: 15_000}, {LLAMA: 7_000}
    free = forecast(NOVEMBER, Terms(), used, lately, begins=BEGINS, ends=ENDS, now=now)
    assert free == (30_000 - 25_000) * 1_000
    capped = Terms(free_tokens=0, monthly_cap_picodollars=20_000_000)
    assert forecast(NOVEMBER, capped, used, lately, begins=BEGINS, ends=ENDS, now=now) == 20_000_000


def test_a_month_that_has_not_begun_or_is_over_is_not_guessed_at() -> None:
    assert forecast(NOVEMBER, PAID, {}, {}, begins=BEGINS, ends=ENDS, now=BEGINS) == 0
    over = forecast(NOVEMBER, PAID, {LLAMA: 7}, {LLAMA: 7}, begins=BEGINS, ends=ENDS, now=ENDS)
    assert over == 7_000
    reserved = Terms(mode="reserved", reserved_units={"llama": 2}, unit_fee_picodollars=DOLLAR)
    assert forecast(NOVEMBER, reserved, {}, {}, begins=BEGINS, ends=ENDS, now=BEGINS) == 2 * DOLLAR


@pytest.mark.parametrize(("tokens", "left"), [(0, 25_000), (24_999, 1), (25_000, 0), (10**9, 0), (-5, 25_000)])
def test_free_tokens_left_never_fall_below_none(tokens: int, left: int) -> None:
    assert free_tokens_left(Terms(), tokens) == left
    assert free_tokens_left(Terms(mode="reserved"), tokens) == 0


def test_a_machine_is_paid_by_its_models_in_proportion_and_idle_hours_by_nobody() -> None:
    usage = [
        HourOfUse("llama", "us-east", BEGINS, 3_000, 5 * DOLLAR),
        HourOfUse("qwen", "us-east", BEGINS, 1_000, 1 * DOLLAR),
        HourOfUse("llama", "eu-west", BEGINS + timedelta(hours=1), 9_000, 9 * DOLLAR),
    ]
    found = finops([machine()], usage, BEGINS, BEGINS + timedelta(hours=2))
    models = {row.name: row for row in found.models}
    assert models["llama"].cost_picodollars == 4_500_000_000_000
    assert models["qwen"].cost_picodollars == 1_500_000_000_000
    assert models["qwen"].margin_picodollars == -500_000_000_000
    assert found.idle_picodollars == 6 * DOLLAR
    assert {row.name: row.revenue_picodollars for row in found.regions} == {
        "eu-west": 9 * DOLLAR,
        "us-east": 6 * DOLLAR,
    }
    (spot,) = found.markets
    assert (spot.name, spot.cost_per_gpu_hour) == ("spot", 3 * DOLLAR)
    assert found.total.cost_per_million == round(Fraction(12 * DOLLAR * 10**6, 13_000))


def test_a_machine_costs_only_for_the_time_it_ran() -> None:
    short = machine(begins=BEGINS + timedelta(minutes=45), ends=BEGINS + timedelta(minutes=75), spot=False)
    found = finops([short], [], BEGINS, BEGINS + timedelta(hours=3))
    assert (found.total.cost_picodollars, found.idle_picodollars) == (3 * DOLLAR, 3 * DOLLAR)
    assert [(row.name, row.gpu_seconds) for row in found.markets] == [("on_demand", 3_600)]


@given(
    st.lists(
        st.builds(
            machine,
            node_id=st.sampled_from("abc"),
            region=st.sampled_from(["us", "eu"]),
            hourly_picodollars=st.integers(0, 10**13),
            spot=st.booleans(),
            models=st.sampled_from([(), ("a",), ("a", "b")]),
            begins=st.integers(0, 5_000).map(lambda s: BEGINS + timedelta(seconds=s)),
        ),
        max_size=4,
    ),
    st.lists(
        st.builds(
            HourOfUse,
            st.sampled_from("ab"),
            st.sampled_from(["us", "eu"]),
            st.sampled_from([BEGINS, BEGINS + timedelta(hours=1)]),
            st.integers(0, 100),
            st.integers(0, 1_000),
        ),
        max_size=6,
    ),
)
@settings(max_examples=60, deadline=None)
def test_every_pico_dollar_of_cost_is_a_models_or_idle(machines: list[Machine], usage: list[HourOfUse]) -> None:
    found = finops(machines, usage, BEGINS, BEGINS + timedelta(hours=2))
    rounding = len(found.models) + len(found.regions) + len(found.markets) + 2
    total = found.total.cost_picodollars
    assert abs(sum(row.cost_picodollars for row in found.models) + found.idle_picodollars - total) <= rounding
    assert abs(sum(row.cost_picodollars for row in found.regions) - total) <= rounding
    assert abs(sum(row.cost_picodollars for row in found.markets) - total) <= rounding
    assert found.total.revenue_picodollars == sum(hour.revenue_picodollars for hour in usage)


def test_a_dispute_is_answered_in_sentences() -> None:
    facts = {
        "prompt": "1000",
        "cached": "200",
        "completion": "50",
        "model": "llama-3-8b",
        "region": "us-east",
        "outcome": "succeeded",
        "charged": "yes",
        "prompt_price": "50000",
        "cached_price": "25000",
        "completion_price": "50000",
        "version": "price version v1",
        "cost": "47500000",
        "from_witness": "yes",
        "corrections": "1",
        "month": "2026-11",
    }
    told = " ".join(sentences(facts))
    for expected in ("1,000 prompt tokens", "200 of them cached", "price version v1", "47,500,000", "2026-11", "node"):
        assert expected in told
    assert "cost nothing" in " ".join(sentences({**facts, "charged": "no", "outcome": "failed"}))

"""Money through the admin API: exact both ways, and a tenant's own to itself."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.admin_billing import ID
from tests.fakes.admin_neighbours import TOKEN, AdminClient, Neighbours
from tests.fakes.admin_stub import rpc_error

ORG = f"/admin/orgs/{ID}/billing"
TERMS = {
    "collection": "prepaid",
    "free_tokens": 5,
    "discount": "2/3",
    "tiers": [{"from_tokens": 1_000, "share": "9/10"}],
    "monthly_cap_usd": "99.5",
    "unit_fee_usd": "12",
}


@pytest.fixture
def neighbours() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def admin(neighbours: Neighbours) -> AsyncIterator[AdminClient]:
    async with AdminClient(TestServer(neighbours.app()), headers={"X-Admin-Token": TOKEN}) as client:
        yield client


async def given(admin: AdminClient, method: str, path: str, status: int = 200, **rest: Any) -> Any:
    async with admin.request(method, path, **rest) as answer:
        body = await answer.json()
        assert answer.status == status, body
    return body


async def test_a_price_is_told_to_the_pico_dollar_and_a_retry_makes_none_more(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    body = {
        "model": "llama",
        "prompt_usd_per_million": "0.0375",
        "completion_usd_per_million": "0.6",
        "cached_prompt_usd_per_million": "0",
        "discount": "0.125",
        "effective_from": "2026-12-01T12:00:00+05:30",
    }
    made = await given(admin, "POST", "/admin/prices", 201, json=body, headers={"Idempotency-Key": "once"})
    asked = neighbours.billing.asked[-1]
    assert asked.base == pb.TokenPrices(
        prompt_picodollars=37_500, completion_picodollars=600_000, embedding_picodollars=37_500
    )
    assert asked.discount == pb.Ratio(numerator=1, denominator=8)
    assert asked.effective_from.ToJsonString() == "2026-12-01T06:30:00Z"
    assert asked.request_id
    (version,) = made["data"]
    assert (version["multiplier"], version["discount"], version["effective_to"]) == ("7/10", "1/8", None)


async def test_terms_come_back_as_they_were_agreed(admin: AdminClient, neighbours: Neighbours) -> None:
    terms = {**TERMS, "time_zone": "Asia/Kolkata"}
    kept = await given(admin, "PUT", f"{ORG}/terms", json={**terms, "from_month": "2026-12"})
    # Mode, overage and units are identity's word: billing adds them.
    assert kept["terms"] == {**terms, "mode": "serverless", "overage": "bill", "reserved_units": {}}
    assert neighbours.billing.terms.monthly_cap_picodollars == str(99_500_000_000_000)


async def test_terms_of_a_plan_come_back_as_they_were_set_as_its_next_version(admin: AdminClient) -> None:
    first = await given(admin, "PUT", "/admin/plans/gold/terms", json=TERMS)
    second = await given(admin, "PUT", "/admin/plans/gold/terms", json={**TERMS, "from_month": "2026-12"})
    assert (first["version"], second["version"], second["from_month"]) == (1, 2, "2026-12")
    assert {name: second["terms"][name] for name in TERMS} == TERMS
    assert await given(admin, "GET", "/admin/plans/gold/terms?month=2026-12") == second


@pytest.mark.parametrize("field", ["mode", "overage", "reserved_units"])
@pytest.mark.parametrize("path", [f"{ORG}/terms", "/admin/plans/gold/terms"])
async def test_what_identity_says_is_not_taken_as_terms(admin: AdminClient, path: str, field: str) -> None:
    refused = await given(admin, "PUT", path, 400, json={field: {} if field == "reserved_units" else "bill"})
    assert field in refused["error"]["message"]


async def test_nobody_is_put_on_a_reserved_plan_whose_capacity_would_cost_nothing(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    await given(admin, "POST", "/admin/plans", 201, json={"name": "gold", "billing_mode": "reserved"})
    org = (await given(admin, "POST", "/admin/orgs", 201, json={"name": "Acme"}))["id"]
    neighbours.billing.plans["gold"] = pb.PlanTerms(plan="gold", terms=pb.Terms(mode=pb.BILLING_MODE_RESERVED))
    for method, path in (("POST", "/admin/orgs"), ("PATCH", f"/admin/orgs/{org}")):
        refused = await given(admin, method, path, 400, json={"name": "Acme", "plan": "gold"})
        assert (refused["error"]["param"], "has no terms" in refused["error"]["message"]) == ("plan", True)
    # Its own terms do as well as the plan's.
    neighbours.billing.agreed_alone = True
    await given(admin, "PATCH", f"/admin/orgs/{org}", json={"plan": "gold"})
    await given(admin, "PUT", "/admin/plans/gold/terms", json=TERMS)
    await given(admin, "POST", "/admin/orgs", 201, json={"name": "Another", "plan": "gold"})


async def test_a_plan_does_not_become_reserved_before_it_has_terms(admin: AdminClient) -> None:
    await given(admin, "POST", "/admin/plans", 201, json={"name": "gold"})
    refused = await given(admin, "PATCH", "/admin/plans/gold", 400, json={"billing_mode": "reserved"})
    assert refused["error"]["param"] == "billing_mode"
    await given(admin, "PUT", "/admin/plans/gold/terms", json=TERMS)
    await given(admin, "PATCH", "/admin/plans/gold", json={"billing_mode": "reserved"})


async def test_while_billing_is_away_nobody_is_put_on_another_plan_and_all_else_goes_on(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    await given(admin, "POST", "/admin/plans", 201, json={"name": "gold"})
    neighbours.billing.fails = rpc_error(CodedError(ErrorCode.UNAVAILABLE))
    org = (await given(admin, "POST", "/admin/orgs", 201, json={"name": "Acme"}))["id"]
    await given(admin, "PATCH", f"/admin/orgs/{org}", 503, json={"plan": "gold"})
    await given(admin, "PATCH", f"/admin/orgs/{org}", json={"name": "Acme and sons"})


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", f"{ORG}/terms", {"discount": "1/0"}, "discount"),
        ("PUT", f"{ORG}/terms", {"discount": "0.1234567"}, "discount"),
        ("PUT", f"{ORG}/terms", {"discount": "9999999/3"}, "discount"),
        ("PUT", f"{ORG}/terms", {"monthly_cap_usd": "-1"}, "monthly_cap_usd"),
        ("PUT", f"{ORG}/terms", {"monthly_cap_usd": "1e9"}, "monthly_cap_usd"),
        ("PUT", f"{ORG}/terms", {"from_month": "2026-1"}, "from_month"),
        ("POST", "/admin/prices", {"model": "m", "prompt_usd_per_million": "1"}, "completion_usd_per_million"),
        ("POST", f"{ORG}/customer", {"name": "Acme", "country": "india"}, "country"),
        ("POST", "/admin/finops/machines", {"node_id": "n", "region": "r", "hourly_usd": "1"}, "from_time"),
        (
            "POST",
            "/admin/finops/machines",
            {"node_id": "n", "region": "r", "hourly_usd": "1000001", "from_time": "2026-11-01T00:00:00Z"},
            "hourly_usd",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_field(
    admin: AdminClient, neighbours: Neighbours, method: str, path: str, body: dict[str, Any], field: str
) -> None:
    refused = await given(admin, method, path, 400, json=body)
    assert refused["error"]["param"] == field
    assert neighbours.billing.asked == []


async def test_costs_that_no_float_can_hold_are_exact(admin: AdminClient) -> None:
    why = await given(admin, "GET", "/admin/billing/charges/7")
    assert (why["cost_picodollars"], why["cost_usd"]) == (9_007_199_254_740_993, "9007.199254740993")
    assert (why["price_version"], why["sentences"]) == (None, ["It cost what it cost."])
    money = await given(admin, "GET", "/admin/finops?from_time=2026-11-01T00:00:00Z&to_time=2026-11-02T00:00:00Z")
    assert money["total"]["margin_usd"] == "-0.000000000006"
    assert money["total"]["cost_usd_per_million_tokens"] is None


async def test_dead_letters_are_seen_and_dealt_with(admin: AdminClient, neighbours: Neighbours) -> None:
    (dead,) = (await given(admin, "GET", "/admin/billing/meter-events?state=dead"))["data"]
    assert (dead["state"], dead["last_error"]) == ("dead", "400 no")
    assert neighbours.billing.asked[-1].state == pb.METER_EVENT_STATE_DEAD
    assert (await given(admin, "POST", "/admin/billing/meter-events/7/replay"))["state"] == "pending"
    assert (await given(admin, "POST", "/admin/billing/meter-events/7/resolve"))["state"] == "delivered"
    for nonsense in ("none", "-1", "99999999999999999999"):
        await given(admin, "POST", f"/admin/billing/meter-events/{nonsense}/replay", 404)


async def test_a_report_is_read_and_signed(admin: AdminClient) -> None:
    made = await given(admin, "POST", "/admin/billing/reconciliations", 201)
    assert (made["unexplained"], made["signed_by"]) == (1, None)
    signed = await given(
        admin, "POST", f"/admin/billing/reconciliations/{made['id']}/sign-off", json={"signed_by": "ada"}
    )
    assert signed["signed_by"] == "ada"


async def test_billing_that_is_away_or_not_there_is_said_to_be_so(neighbours: Neighbours) -> None:
    neighbours.billing.fails = rpc_error(CodedError(ErrorCode.UNAVAILABLE))
    async with AdminClient(TestServer(neighbours.app()), headers={"X-Admin-Token": TOKEN}) as client:
        await given(client, "GET", f"{ORG}/statement", 503)
    without = neighbours.app(replace(neighbours.deps, billing=None))
    async with AdminClient(TestServer(without), headers={"X-Admin-Token": TOKEN}) as client:
        await given(client, "GET", f"{ORG}/statement", 404)


@pytest.mark.parametrize("path", ["/admin/prices", f"{ORG}/statement", "/admin/billing/meter-events"])
async def test_nobody_without_the_token_sees_money(neighbours: Neighbours, path: str) -> None:
    async with AdminClient(TestServer(neighbours.app())) as client:
        await given(client, "GET", path, 401)
    assert neighbours.billing.asked == []

"""Budgets and corrections through the admin API: money is exact, and each sees his own only."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import budgets_pb2 as pb
from tests.fakes.admin_neighbours import AdminClient, Neighbours

ORG = str(uuid4())
BUDGET = {
    "org_id": ORG,
    "name": "research",
    "limit_picodollars": 2 * 10**12,
    "hard": True,
    "owners": ["cfo@example.com"],
}


async def answered(admin: AdminClient, method: str, path: str, status: int, **kwargs: Any) -> dict[str, Any]:
    async with admin.request(method, path, **kwargs) as answer:
        assert answer.status == status, await answer.text()
        body: dict[str, Any] = await answer.json()
        return body


async def test_a_budget_is_made_read_changed_and_ended(admin: AdminClient, neighbours: Neighbours) -> None:
    made = await answered(admin, "POST", "/admin/budgets", 201, json=BUDGET)
    assert (made["scope"], made["period"], made["thresholds_percent"]) == ("org", "month", [50, 80, 100])
    assert (made["limit_usd"], made["spent_usd"], made["spent_picodollars"]) == ("2", "1.5", 1_500_000_000_000)
    assert await answered(admin, "GET", f"/admin/budgets/{made['id']}", 200) == made
    assert (await answered(admin, "GET", f"/admin/budgets?org_id={ORG}", 200))["data"] == [made]
    changed = await answered(admin, "PATCH", f"/admin/budgets/{made['id']}", 200, json={"limit_picodollars": 5})
    assert (changed["limit_picodollars"], changed["name"], changed["hard"]) == (5, "research", True)
    await answered(admin, "DELETE", f"/admin/budgets/{made['id']}", 200)
    await answered(admin, "GET", f"/admin/budgets/{made['id']}", 404)
    await answered(admin, "GET", "/admin/budgets/none", 404)
    assert neighbours.budgets.states == {}


async def test_a_repeated_request_makes_one_budget(admin: AdminClient, neighbours: Neighbours) -> None:
    for _ in range(2):
        await answered(admin, "POST", "/admin/budgets", 201, json=BUDGET, headers={"Idempotency-Key": "once"})
    assert len(neighbours.budgets.states) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"limit_picodollars": 0},
        {"limit_picodollars": 2**63},
        {"limit_picodollars": 0.5},
        {"scope": "galaxy"},
        {"period": "year"},
        {"thresholds_percent": [0]},
        {"owners": [""]},
        {"name": ""},
        {"surprise": 1},
    ],
    ids=str,
)
async def test_a_senseless_budget_is_refused_and_reaches_nobody(
    admin: AdminClient, neighbours: Neighbours, change: dict[str, Any]
) -> None:
    await answered(admin, "POST", "/admin/budgets", 400, json=BUDGET | change)
    assert neighbours.budgets.states == {}


async def test_what_budgets_told_their_owners_is_read_by_a_cursor(admin: AdminClient, neighbours: Neighbours) -> None:
    neighbours.budgets.events = [
        pb.BudgetEvent(
            sequence=number,
            budget_id=str(uuid4()),
            org_id=ORG,
            threshold_percent=percent,
            spent_picodollars="10",
            limit_picodollars=20,
            period_start=Timestamp(seconds=1),
            event_time=Timestamp(seconds=2),
        )
        for number, percent in ((1, 50), (2, 80))
    ]
    events = (await answered(admin, "GET", "/admin/budget-events?after_sequence=1", 200))["data"]
    assert [(event["sequence"], event["threshold_percent"], event["stopped"]) for event in events] == [(2, 80, False)]


async def test_a_record_is_corrected_with_a_reason_and_by_somebody(admin: AdminClient, neighbours: Neighbours) -> None:
    path = f"/admin/usage/records/{UUID(int=7)}/corrections"
    body = {"expected_revision": 0, "reason": "counted twice", "prompt_tokens": 3, "completion_tokens": 0}
    made = await answered(admin, "POST", path, 201, json=body)
    assert (made["revision"], made["record"]["prompt_tokens"], made["duplicate"]) == (2, 3, False)
    (asked,) = neighbours.accountant.asked
    assert asked.reason == "counted twice"
    assert asked.author
    assert not asked.HasField("prompt_price_picodollars")
    await answered(admin, "POST", path, 409, json=body | {"expected_revision": 2})
    for wrong in ({"reason": ""}, {"completion_tokens": None}, {"prompt_price_picodollars": -1}):
        await answered(admin, "POST", path, 400, json=body | wrong)
    await answered(admin, "POST", path, 400, json={"expected_revision": 0, "reason": "x", "prompt_tokens": 3})
    await answered(admin, "POST", "/admin/usage/records/none/corrections", 404, json=body)


async def test_an_auditor_compares_witnesses_records_and_rollups(admin: AdminClient) -> None:
    period = "from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z"
    found = await answered(admin, "GET", f"/admin/usage/comparison?{period}", 200)
    assert found["records"] == found["rollups"]
    assert found["records"]["cost_usd"] == "0.00000075"
    await answered(admin, "GET", "/admin/usage/comparison?from=yesterday&to=today", 400)

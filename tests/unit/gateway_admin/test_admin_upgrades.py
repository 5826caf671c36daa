"""Model upgrades through the admin API: started once, read, taken back, written down."""

from typing import Any
from uuid import UUID

import pytest

from tests.fakes.admin_neighbours import AdminClient, Neighbours


async def answered(admin: AdminClient, method: str, path: str, status: int, **kwargs: Any) -> dict[str, Any]:
    async with admin.request(method, path, **kwargs) as answer:
        assert answer.status == status, await answer.text()
        body: dict[str, Any] = await answer.json()
        return body


async def test_an_upgrade_is_started_read_and_taken_back(admin: AdminClient, neighbours: Neighbours) -> None:
    asked = {"to_version": "v2", "rules": {"steps_percent": [10, 100], "max_error_percent": 0}}
    made = await answered(admin, "POST", "/admin/models/llama/upgrades", 201, json=asked)
    assert (made["model"], made["from_version"], made["to_version"], made["phase"]) == ("llama", "v1", "v2", "waiting")
    assert made["rules"]["steps_percent"] == [10, 100]
    assert (made["rules"]["max_error_percent"], made["rules"]["step_s"], made["rules"]["lost_s"]) == (0, 300, 30)
    assert await answered(admin, "GET", f"/admin/upgrades/{made['id']}", 200) == made
    assert (await answered(admin, "GET", "/admin/models/llama/upgrades", 200))["data"] == [made]
    back = await answered(admin, "POST", f"/admin/upgrades/{made['id']}/roll-back", 200, json={"reason": "no good"})
    assert (back["phase"], back["reason"]) == ("rolled_back", "no good")
    written = [(record.action, record.outcome) for record in neighbours.identity.audit]
    assert [action for action, outcome in written if outcome == "succeeded"] == [
        "createModelUpgrade",
        "rollBackModelUpgrade",
    ]


async def test_a_repeated_request_starts_one_upgrade(admin: AdminClient, neighbours: Neighbours) -> None:
    for _ in range(2):
        made = await answered(
            admin,
            "POST",
            "/admin/models/llama/upgrades",
            201,
            json={"to_version": "v2", "from_version": ""},
            headers={"Idempotency-Key": "once"},
        )
    assert made["from_version"] == ""
    assert list(neighbours.upgrades.upgrades) == [str(UUID(made["id"]))]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"to_version": ""},
        {"to_version": "v" * 101},
        {"to_version": "v2", "rules": {"steps_percent": []}},
        {"to_version": "v2", "rules": {"steps_percent": [0, 100]}},
        {"to_version": "v2", "rules": {"max_first_token_ratio": 0.5}},
        {"to_version": "v2", "speed": "fast"},
    ],
)
async def test_what_no_upgrade_can_be_is_refused(
    admin: AdminClient, neighbours: Neighbours, asked: dict[str, Any]
) -> None:
    await answered(admin, "POST", "/admin/models/llama/upgrades", 400, json=asked)
    assert neighbours.upgrades.upgrades == {}


async def test_unknown_models_and_upgrades_are_not_found(admin: AdminClient) -> None:
    await answered(admin, "POST", "/admin/models/unknown/upgrades", 404, json={"to_version": "v2"})
    await answered(admin, "GET", "/admin/upgrades/none", 404)
    await answered(admin, "POST", "/admin/upgrades/none/roll-back", 404)

"""Routes of notifications through the admin API: secrets are told once and are written nowhere."""

from typing import Any
from uuid import uuid4

import pytest

from crosslogic.orchestrator.v1 import notifications_pb2 as pb
from tests.fakes.admin_neighbours import AdminClient, Neighbours
from tests.fakes.admin_notifications import NOTIFICATION_ID, SECRET

TARGET = "https://hooks.example.com/services/very-secret-path"
ROUTE = {
    "name": "pager",
    "channel": "webhook",
    "target": TARGET,
    "kinds": ["node_lost"],
    "min_severity": "warning",
    "quiet_hours": {"start": "22:00", "end": "07:00", "time_zone": "Asia/Kolkata"},
    "gather_s": 30,
}
ONE = f"/admin/notifications/routes/{NOTIFICATION_ID}"


async def answered(admin: AdminClient, method: str, path: str, status: int, **kwargs: Any) -> dict[str, Any]:
    async with admin.request(method, path, **kwargs) as answer:
        assert answer.status == status, await answer.text()
        body: dict[str, Any] = await answer.json()
        return body


async def test_a_route_is_made_read_changed_tried_and_ended(admin: AdminClient, neighbours: Neighbours) -> None:
    made = await answered(admin, "POST", "/admin/notifications/routes", 201, json=ROUTE)
    asked = neighbours.notifications.asked[0].spec
    assert (asked.target, asked.gather.seconds, asked.min_severity) == (TARGET, 30, pb.NOTIFICATION_SEVERITY_WARNING)
    assert made.pop("secret") == SECRET
    assert (made["shown_target"], made["enabled"]) == ("hooks.example.com", True)
    assert made["quiet_hours"] == {**ROUTE["quiet_hours"], "breaks_through": "critical"}  # type: ignore[dict-item]
    assert await answered(admin, "GET", ONE, 200) == made
    assert (await answered(admin, "GET", "/admin/notifications/routes", 200))["data"] == [made]
    changed = await answered(admin, "PATCH", ONE, 200, json={"quiet_hours": None, "enabled": False})
    assert (changed["quiet_hours"], changed["enabled"], changed["secret"]) == (None, False, None)
    assert (changed["kinds"], changed["gather_s"], changed["min_severity"]) == (["node_lost"], 30, "warning")
    assert neighbours.notifications.asked[-1].spec.target == "", "what is not told again is left as it is"
    rotated = await answered(admin, "PATCH", ONE, 200, json={"rotate_secret": True})
    assert rotated["secret"] == SECRET
    tried = await answered(admin, "POST", f"{ONE}/test", 200)
    assert tried == {"sent": False, "error": "The receiver answered 500."}
    await answered(admin, "DELETE", ONE, 200)
    await answered(admin, "GET", "/admin/notifications/routes/none", 404)


async def test_a_change_of_what_somebody_else_changed_is_refused(admin: AdminClient, neighbours: Neighbours) -> None:
    await answered(admin, "PATCH", ONE, 200, json={"name": "one"})
    await answered(admin, "PATCH", ONE, 409, json={"name": "other", "revision": 1})
    assert neighbours.notifications.route.spec.name == "one"


async def test_the_audit_log_says_that_a_target_was_set_and_not_which(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    await answered(admin, "POST", "/admin/notifications/routes", 201, json=ROUTE | {"secret": SECRET})
    await answered(admin, "PATCH", ONE, 200, json={"target": TARGET, "rotate_secret": True, "secret": SECRET})
    for record in neighbours.identity.audit:
        assert "very-secret-path" not in record.after_json
        assert SECRET not in record.after_json
        assert '"target":"(secret)"' in record.after_json


async def test_dead_letters_are_listed_and_replayed(admin: AdminClient, neighbours: Neighbours) -> None:
    listed = await answered(admin, "GET", "/admin/notifications/deliveries?state=dead", 200)
    assert [(each["state"], each["count"], each["last_error"]) for each in listed["data"]] == [
        ("dead", 3, "The receiver answered 500.")
    ]
    assert neighbours.notifications.asked[-1].state == pb.NOTIFICATION_STATE_DEAD
    await answered(admin, "POST", f"/admin/notifications/deliveries/{NOTIFICATION_ID}/replay", 200)
    await answered(admin, "POST", f"/admin/notifications/deliveries/{uuid4()}/replay", 404)


@pytest.mark.parametrize(
    "change",
    [
        {"channel": "pigeon"},
        {"name": ""},
        {"target": ""},
        {"target": "x" * 3_000},
        {"secret": "weak"},
        {"kinds": ["x"] * 51},
        {"gather_s": -1},
        {"quiet_hours": {"start": "25:00", "end": "07:00"}},
        {"quiet_hours": {"start": "22:00"}},
        {"min_severity": "loud"},
        {"surprise": 1},
    ],
)
async def test_nonsense_goes_no_further(admin: AdminClient, neighbours: Neighbours, change: dict[str, Any]) -> None:
    await answered(admin, "POST", "/admin/notifications/routes", 400, json=ROUTE | change)
    assert neighbours.notifications.asked == []

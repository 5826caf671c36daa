"""Machines through the admin API: a job at once, its progress as it happens, errors in words."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.admin_neighbours import TOKEN, AdminClient, Neighbours
from tests.fakes.admin_orchestrator import CONFIGURED_ID, INSTANCE_ID, JOB_ID
from tests.fakes.admin_stub import rpc_error

LAUNCH = {"model_name": "m", "provider": "local", "region": "us-east", "use_spot": True}


@pytest.fixture
def neighbours() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def admin(neighbours: Neighbours) -> AsyncIterator[AdminClient]:
    async with AdminClient(TestServer(neighbours.app()), headers={"X-Admin-Token": TOKEN}) as client:
        yield client


async def test_launch_answers_at_once_with_its_job(admin: AdminClient, neighbours: Neighbours) -> None:
    headers = {"Idempotency-Key": "once"}
    async with admin.post("/admin/instances/launch", json=LAUNCH, headers=headers) as answer:
        assert answer.status == 202
        job = await answer.json()
    assert (job["id"], job["instance_id"], job["status"]) == (JOB_ID, INSTANCE_ID, "running")
    assert job["steps"][-1]["step"] == "validated"
    asked = neighbours.orchestrator.asked[-1]
    assert (asked.spec.model, asked.spec.provider, asked.spec.use_spot) == ("m", "local", True)
    assert asked.request_id, "a retry would launch a second machine"


async def test_a_cloud_may_be_asked_for_the_cheapest_of_some_regions(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    async with admin.post("/admin/instances/launch", json=LAUNCH | {"region": "us-east,eu-west"}) as answer:
        assert answer.status == 202
    assert neighbours.orchestrator.asked[-1].spec.region == "us-east,eu-west"


async def test_progress_comes_as_events_until_the_job_has_ended(admin: AdminClient) -> None:
    async with admin.get(f"/admin/instances/{JOB_ID}/events") as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        events = [json.loads(each.removeprefix("data: ")) for each in (await answer.text()).split("\n\n") if each]
    assert [event["steps"][-1]["step"] for event in events] == ["validated", "requested", "active"]
    assert [event["status"] for event in events] == ["running", "running", "succeeded"]
    assert [(line["source"], line["text"]) for line in events[-1]["logs"]] == [("engine", "CUDA out of memory")]


async def test_machines_and_their_end(admin: AdminClient, neighbours: Neighbours) -> None:
    async with admin.get("/admin/instances") as answer:
        (instance,) = (await answer.json())["data"]
    assert (instance["id"], instance["state"], instance["hourly_price_usd"]) == (INSTANCE_ID, "active", "2.5")
    async with admin.post(f"/admin/instances/{INSTANCE_ID}/terminate", json={"drain_timeout_s": 0.5}) as answer:
        assert answer.status == 202
        assert (await answer.json())["kind"] == "terminate"
    assert neighbours.orchestrator.asked[-1].drain_timeout.nanos == 500_000_000


async def test_a_machine_is_given_up_only_where_that_is_asked_for(admin: AdminClient, neighbours: Neighbours) -> None:
    path = f"/admin/instances/{INSTANCE_ID}/terminate"
    for body, abandon in ((None, False), ({}, False), ({"abandon": False}, False), ({"abandon": True}, True)):
        async with admin.post(path, json=body) as answer:
            assert answer.status == 202
            job = await answer.json()
        assert neighbours.orchestrator.asked[-1].abandon is abandon
        assert ("nobody has ended it" in job["error"]) is abandon
        audited = [entry for entry in neighbours.identity.asked if getattr(entry, "action", "") == "terminateInstance"]
        assert audited[-1].object_id == INSTANCE_ID
        assert ('"abandon":true' in audited[-1].after_json) is abandon, "the audit log does not say who gave it up"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "word"),
    [
        ("GET", f"/admin/instances/{INSTANCE_ID}", None, 404, "no such thing"),
        ("GET", f"/admin/instances/{INSTANCE_ID}/events", None, 404, "no such job"),
        ("POST", "/admin/instances/launch", {**LAUNCH, "model_name": "unknown"}, 404, "no model unknown"),
        ("POST", "/admin/instances/launch", {"provider": "local"}, 400, "model_name"),
        ("POST", "/admin/instances/launch", {**LAUNCH, "use_spot": "yes"}, 400, "use_spot"),
        *(
            ("POST", "/admin/instances/launch", {**LAUNCH, "region": region}, 400, "region")
            for region in ("", "../../etc", "us-east,", "us-east,,x", "us east", "x" * 201)
        ),
        ("POST", f"/admin/instances/{INSTANCE_ID}/terminate", {"drain_timeout_s": -1}, 400, "drain_timeout_s"),
        ("POST", f"/admin/instances/{INSTANCE_ID}/terminate", {"abandon": "yes"}, 400, "abandon"),
        ("POST", f"/admin/instances/{CONFIGURED_ID}/terminate", {"abandon": True}, 409, "without `abandon`"),
    ],
)
async def test_bad_requests_say_what_to_change(
    admin: AdminClient, method: str, path: str, body: Any, status: int, word: str
) -> None:
    async with admin.request(method, path, json=body) as answer:
        assert answer.status == status
        assert word in (await answer.json())["error"]["message"]


async def test_orchestrator_that_is_away_is_a_clean_503(admin: AdminClient, neighbours: Neighbours) -> None:
    neighbours.orchestrator.fails = rpc_error(CodedError(ErrorCode.UNAVAILABLE))
    for path in ("/admin/instances", f"/admin/instances/{JOB_ID}", f"/admin/instances/{JOB_ID}/events"):
        async with admin.get(path) as answer:
            assert answer.status == 503

"""Who may do what: an organisation's people in their own organisation, by role, and what is written down of it."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin.deps import Person
from crosslogic_gateway.admin.operation import MAX_AUDITED_CHARS, audited_body
from crosslogic_gateway.admin.routes import OPERATIONS
from crosslogic_gateway.admin.schemas import NewModel
from tests.fakes.admin_neighbours import TOKEN, AdminClient, Neighbours
from tests.fakes.admin_notifications import NOTIFICATION_ID
from tests.fakes.admin_stub import rpc_error

MODEL = {"name": "m", "context_length": 8, "prompt_price_picodollars": 1, "completion_price_picodollars": 1}
ROLES = {"admin": pb.ROLE_ADMIN, "developer": pb.ROLE_DEVELOPER, "read_only": pb.ROLE_READ_ONLY}


class ByHeader:
    """Believes a header: who signs in is another test's matter."""

    async def person(self, request: web.Request, *, changes: bool) -> Person | None:
        email = request.headers.get("X-Test-Email")
        return Person("https://idp", email, email) if email else None


class World:
    """Two organisations with an environment and a key each, and people in the first."""

    def __init__(self, client: AdminClient, neighbours: Neighbours) -> None:
        self.client = client
        self.neighbours = neighbours
        self.own: dict[str, str] = {}
        self.other: dict[str, str] = {}

    async def fill(self) -> None:
        for tenant in (self.own, self.other):
            tenant["org"] = (await self.must("POST", "/admin/orgs", {"name": "Acme"}))["id"]
            tenant["environment"] = (
                await self.must("POST", f"/admin/orgs/{tenant['org']}/environments", {"name": "e"})
            )["id"]
            tenant["key"] = (await self.must("POST", f"/admin/environments/{tenant['environment']}/keys", {}))["id"]
            user = await self.must(
                "POST", f"/admin/orgs/{tenant['org']}/users", {"email": f"u{len(tenant)}@x.org", "role": "read_only"}
            )
            tenant["user"] = user["id"]
        for role, number in ROLES.items():
            for place, org in (("org", self.own["org"]), ("platform", "")):
                email = f"{role}@{place}.example.com"
                self.neighbours.identity.let_in(pb.CreateUserRequest(org_id=org, email=email, role=number))

    async def must(self, method: str, path: str, body: Any = None) -> Any:
        async with self.client.request(method, path, json=body, headers={"X-Admin-Token": TOKEN}) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def status(self, who: str, method: str, path: str, body: Any = None) -> int:
        async with self.client.request(method, path, json=body, headers={"X-Test-Email": who}) as answer:
            return answer.status

    def paths(self, tenant: dict[str, str]) -> dict[str, tuple[str, str, Any]]:
        """By operation: what somebody would ask of a tenant."""
        org, environment, key, user = (tenant[name] for name in ("org", "environment", "key", "user"))
        return {
            "getOrg": ("GET", f"/admin/orgs/{org}", None),
            "listEnvironments": ("GET", f"/admin/orgs/{org}/environments", None),
            "getEnvironment": ("GET", f"/admin/environments/{environment}", None),
            "listKeys": ("GET", f"/admin/environments/{environment}/keys", None),
            "getKey": ("GET", f"/admin/keys/{key}", None),
            "listOrgUsers": ("GET", f"/admin/orgs/{org}/users", None),
            "getUser": ("GET", f"/admin/users/{user}", None),
            "queryUsage": ("GET", f"/admin/usage?org_id={org}", None),
            "listUsageRecords": ("GET", f"/admin/usage/records?org_id={org}", None),
            "createKey": ("POST", f"/admin/environments/{environment}/keys", {}),
            "updateKey": ("PATCH", f"/admin/keys/{key}", {"name": "x"}),
            "rotateKey": ("POST", f"/admin/keys/{key}/rotate", {}),
            "revokeKey": ("DELETE", f"/admin/keys/{key}", None),
            "createEnvironment": ("POST", f"/admin/orgs/{org}/environments", {"name": "new"}),
            "updateEnvironment": ("PATCH", f"/admin/environments/{environment}", {"name": "x"}),
            "createOrgUser": ("POST", f"/admin/orgs/{org}/users", {"email": "n@x.org", "role": "admin"}),
            "updateUser": ("PATCH", f"/admin/users/{user}", {"role": "read_only"}),
            "listAudit": ("GET", f"/admin/audit?org_id={org}", None),
            "updateOrg": ("PATCH", f"/admin/orgs/{org}", {"limits": {}}),
        }


READS = ("getOrg", "listEnvironments", "getEnvironment", "listKeys", "getKey", "listOrgUsers", "getUser")
USAGE = ("queryUsage", "listUsageRecords")
KEYS = ("createKey", "updateKey", "rotateKey", "revokeKey")
MANAGES = ("createEnvironment", "updateEnvironment", "createOrgUser", "updateUser", "listAudit")
PLATFORM = ("updateOrg",)
MAY = {
    "read_only": {*READS, *USAGE},
    "developer": {*READS, *USAGE, *KEYS},
    "admin": {*READS, *USAGE, *KEYS, *MANAGES},
}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    neighbours = Neighbours()
    app = neighbours.app(replace(neighbours.deps, sign_in=ByHeader()))
    async with AdminClient(TestServer(app)) as client:
        made = World(client, neighbours)
        await made.fill()
        yield made


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_a_role_does_in_its_own_organisation_what_it_may_and_no_more(world: World, role: str) -> None:
    for name, (method, path, body) in world.paths(world.own).items():
        status = await world.status(f"{role}@org.example.com", method, path, body)
        assert (status < 300) == (name in MAY[role]), (name, status)
        assert status < 300 or status == 403, (name, status)


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_another_organisations_things_are_not_there_for_anybody_of_this_one(world: World, role: str) -> None:
    who = f"{role}@org.example.com"
    for name, (method, path, body) in world.paths(world.other).items():
        expected = 403 if name in PLATFORM else 404
        assert await world.status(who, method, path, body) == expected, name
    for path in ("/admin/orgs/none", f"/admin/keys/{world.own['org']}", "/admin/environments/x"):
        assert await world.status(who, "GET", path) == 404


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_the_platforms_people_do_the_same_everywhere_by_role(world: World, role: str) -> None:
    for name, (method, path, body) in world.paths(world.other).items():
        status = await world.status(f"{role}@platform.example.com", method, path, body)
        allowed = name in MAY[role] or (role == "admin" and name in PLATFORM)
        assert (status < 300) == allowed, (name, status)
        assert allowed or status == 403, (name, status)


async def test_an_organisations_admin_sees_nothing_of_the_fleet_the_plans_or_the_platform(world: World) -> None:
    who = "admin@org.example.com"
    for method, path, body in (
        ("POST", "/admin/orgs", {"name": "x"}),
        ("GET", "/admin/plans", None),
        ("PATCH", "/admin/plans/default", {"priority": "high"}),
        ("GET", "/admin/users", None),
        ("POST", "/admin/users", {"email": "a@b.c", "role": "admin"}),
        ("POST", "/admin/models", MODEL),
        ("GET", "/admin/nodes", None),
        ("POST", "/admin/nodes/join-tokens", {}),
        ("GET", "/admin/audit/verify", None),
    ):
        assert await world.status(who, method, path, body) == 403, path
    assert await world.status(who, "GET", "/admin/models") == 200


@pytest.mark.parametrize("owner", ["own", "other", "operators"])
async def test_a_tenant_has_its_own_routes_of_notifications_and_nobody_elses(world: World, owner: str) -> None:
    org = {"own": world.own["org"], "other": world.other["org"], "operators": ""}[owner]
    world.neighbours.notifications.route.org_id = org
    one = f"/admin/notifications/routes/{NOTIFICATION_ID}"
    reads = (("GET", one, None), ("GET", f"/admin/notifications/deliveries?org_id={org}", None))
    changes = (
        (
            "POST",
            "/admin/notifications/routes",
            {"name": "n", "channel": "slack", "target": "https://x.y/", "org_id": org},
        ),
        ("PATCH", one, {"enabled": False}),
        ("POST", f"{one}/test", None),
        ("POST", f"/admin/notifications/deliveries/{NOTIFICATION_ID}/replay", None),
        ("DELETE", one, None),
    )
    for method, path, body in (*reads, *changes):
        admin = await world.status("admin@org.example.com", method, path, body)
        developer = await world.status("developer@org.example.com", method, path, body)
        if owner == "own":
            assert admin < 300, path
            assert (developer < 300) == (method == "GET"), path
        elif owner == "other":
            assert (admin, developer) == (404, 404), path
        elif "?" not in path:
            assert {admin, developer} <= {403, 404}, path


async def test_lists_hold_ones_own_organisations_only(world: World) -> None:
    headers = {"X-Test-Email": "read_only@org.example.com"}
    async with world.client.get("/admin/orgs", headers=headers) as answer:
        assert [org["id"] for org in (await answer.json())["data"]] == [world.own["org"]]
    # Somebody with one organisation need not name it, and it is asked for all the same.
    async with world.client.get("/admin/usage", headers=headers) as answer:
        assert answer.status == 200
    assert world.neighbours.accountant.asked[-1].filter.org_id == world.own["org"]


def test_what_says_nothing_of_who_may_use_it_is_for_the_platform_only() -> None:
    for operation in OPERATIONS:
        access = operation.who_may
        if access.org_of is None and not access.anywhere:
            assert access.role == ("admin" if operation.changes else "read_only"), operation.name


async def test_somebody_who_lost_his_place_gets_no_answer_again_for_an_old_idempotency_key(world: World) -> None:
    # Without a store of answers each is carried out; what counts is that access is asked each time.
    who = {"X-Test-Email": "developer@org.example.com", "Idempotency-Key": "k"}
    path = f"/admin/environments/{world.own['environment']}/keys"
    async with world.client.post(path, json={}, headers=who) as answer:
        assert answer.status == 201
    world.neighbours.identity.users.clear()
    async with world.client.post(path, json={}, headers=who) as answer:
        assert answer.status == 403


async def test_two_people_who_choose_the_same_idempotency_key_are_not_shown_each_others_things(world: World) -> None:
    key = {"Idempotency-Key": "1"}
    for email, body in (
        ("admin@org.example.com", {"org_id": world.own["org"]}),
        ("admin@platform.example.com", {}),
        ("admin@org.example.com", {"org_id": world.own["org"]}),
    ):
        route = {"name": "pager", "channel": "webhook", "target": "https://hooks.example.com/", **body}
        headers = {"X-Test-Email": email} | key
        async with world.client.post("/admin/notifications/routes", json=route, headers=headers) as answer:
            assert answer.status == 201
    one, other, again = (
        each.request_id for each in world.neighbours.notifications.asked if "Create" in type(each).__name__
    )
    assert one == again != other


# What is written down


async def test_who_did_it_and_from_where_goes_along_to_identity(world: World) -> None:
    await world.status("developer@org.example.com", "PATCH", f"/admin/keys/{world.own['key']}", {"name": "x"})
    actor = world.neighbours.identity.asked[-1].actor
    assert (actor.kind, actor.name, actor.org_id) == (
        pb.ACTOR_KIND_USER,
        "developer@org.example.com",
        world.own["org"],
    )
    assert (actor.address, actor.request_id) == ("127.0.0.1", "test-request")
    assert actor.user_id in world.neighbours.identity.users
    await world.must("PATCH", f"/admin/keys/{world.own['key']}", {"name": "y"})
    actor = world.neighbours.identity.asked[-1].actor
    assert (actor.kind, actor.org_id, actor.user_id) == (pb.ACTOR_KIND_TOKEN, "", "")


async def test_what_another_service_does_is_written_down_before_and_after(world: World) -> None:
    await world.must("POST", "/admin/models", MODEL)
    started, succeeded = world.neighbours.identity.audit
    assert (started.action, started.outcome, started.object_id) == ("createModel", "started", "m")
    assert '"context_length":8' in started.after_json
    assert (succeeded.action, succeeded.outcome) == ("createModel", "succeeded")
    async with world.client.post("/admin/models", json=MODEL, headers={"X-Admin-Token": TOKEN}) as again:
        assert again.status == 409
    assert [record.outcome for record in world.neighbours.identity.audit[2:]] == ["started", "failed"]


async def test_an_outcome_that_nobody_knows_is_written_down_as_such(world: World) -> None:
    world.neighbours.registry.fails = rpc_error(CodedError(ErrorCode.UNAVAILABLE))
    headers = {"X-Admin-Token": TOKEN}
    async with world.client.post("/admin/nodes/x/drain", headers=headers) as answer:
        assert answer.status == 503
    last = world.neighbours.identity.audit[-1]
    assert (last.outcome, last.reason, last.object_id) == ("failed", "outcome not known", "x")


async def test_what_cannot_be_written_down_is_not_done(world: World) -> None:
    world.neighbours.identity.fails = rpc_error(CodedError(ErrorCode.UNAVAILABLE))
    async with world.client.post("/admin/models", json=MODEL, headers={"X-Admin-Token": TOKEN}) as answer:
        assert answer.status == 503
    assert not world.neighbours.registry.models


async def test_a_long_request_is_written_down_by_its_hash(world: World) -> None:
    long = MODEL | {"name": "long", "regions": [f"r{number}-{'x' * 50}" for number in range(60)]}
    await world.must("POST", "/admin/models", long | {"family": "f" * 200})
    assert len(world.neighbours.identity.audit[0].after_json) < MAX_AUDITED_CHARS
    big = NewModel(name="m", context_length=8, family="f" * MAX_AUDITED_CHARS)
    told = json.loads(audited_body(big))
    assert set(told) == {"bytes", "sha256"}


async def test_a_tenant_learns_what_was_done_to_it_and_not_which_operator_did_it(world: World) -> None:
    org = world.own["org"]
    operator = pb.Actor(kind=pb.ACTOR_KIND_USER, user_id=org, name="olga@platform.example.com", address="192.0.2.9")
    theirs = pb.Actor(kind=pb.ACTOR_KIND_USER, user_id=org, name="tom@x.org", org_id=org, address="198.51.100.1")
    for actor in (operator, theirs):
        await world.neighbours.identity.RecordAudit(
            pb.RecordAuditRequest(actor=actor, action="api_key.update", outcome="done", org_id=org)
        )
    listed = await (await world.client.get("/admin/audit", headers={"X-Test-Email": "admin@org.example.com"})).json()
    own, other = (record["actor"] for record in listed["data"])
    assert (own["name"], own["address"]) == ("tom@x.org", "198.51.100.1")
    assert (other["kind"], other["name"], other["address"], other["user_id"]) == ("user", "operators", "", None)
    seen = await world.must("GET", "/admin/audit")
    assert seen["data"][1]["actor"]["name"] == "olga@platform.example.com"


async def test_reads_are_not_written_down(world: World) -> None:
    await world.must("GET", "/admin/nodes")
    await world.must("GET", "/admin/usage")
    assert not world.neighbours.identity.audit


async def test_a_suspension_by_the_operators_is_told_to_a_tenant_that_would_end_it(world: World) -> None:
    refusal = CodedError(ErrorCode.PERMISSION_DENIED, "It was suspended by the operators: ask them.")

    def refuses(_: Any) -> Any:
        raise refusal

    world.neighbours.identity.UpdateApiKey = refuses  # type: ignore[method-assign,assignment]
    headers = {"X-Test-Email": "admin@org.example.com"}
    path = f"/admin/keys/{world.own['key']}"
    async with world.client.patch(path, json={"status": "active"}, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["message"]) == (403, refusal.public)

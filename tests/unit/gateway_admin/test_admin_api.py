"""What an operator gets from the admin API."""

import re
from typing import Any

import grpc
import grpc.aio
import pytest
from aiohttp.test_utils import TestServer

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin.routes import OPERATIONS
from tests.fakes.admin_neighbours import TOKEN, AdminClient, Neighbours
from tests.fakes.admin_stub import rpc_error

MODEL = {
    "name": "m",
    "context_length": 8192,
    "prompt_price_picodollars": 50_000,
    "completion_price_picodollars": 80_000,
}


async def made(admin: AdminClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with admin.post(path, json=body) as answer:
        assert answer.status == 201, await answer.text()
        made: dict[str, Any] = await answer.json()
        return made


async def refused(admin: AdminClient, method: str, path: str, status: int, **kwargs: Any) -> dict[str, Any]:
    async with admin.request(method, path, **kwargs) as answer:
        assert answer.status == status, await answer.text()
        body = await answer.json()
        error: dict[str, Any] = body["error"]
        return error


async def make_key(admin: AdminClient, **body: Any) -> dict[str, Any]:
    org = await made(admin, "/admin/orgs", {"name": "Acme"})
    environment = await made(admin, f"/admin/orgs/{org['id']}/environments", {"name": "production"})
    return await made(admin, f"/admin/environments/{environment['id']}/keys", body)


# Who gets in


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize(
    "headers", [{}, {"X-Admin-Token": "wrong"}, {"X-Admin-Token": ""}, {"X-Admin-Token": TOKEN + " x"}]
)
async def test_nobody_uses_an_operation_without_the_token(
    neighbours: Neighbours, operation: Any, headers: dict[str, str]
) -> None:
    async with AdminClient(TestServer(neighbours.app())) as stranger:
        error = await refused(
            stranger, operation.method, re.sub(r"\{\w+\}", "x", operation.path), 401, headers=headers, data=b"not json"
        )
    assert error["code"] == "unauthenticated"
    assert TOKEN not in str(error)
    assert not neighbours.identity.asked + neighbours.registry.asked + neighbours.accountant.asked


async def test_a_gateway_without_a_configured_token_lets_nobody_in() -> None:
    async with AdminClient(TestServer(Neighbours(token="").app())) as client:
        for headers in ({}, {"X-Admin-Token": ""}):
            await refused(client, "GET", "/admin/orgs", 401, headers=headers)


async def test_a_token_sent_twice_is_refused_rather_than_picked_from(neighbours: Neighbours) -> None:
    async with AdminClient(TestServer(neighbours.app())) as client:
        headers = [("X-Admin-Token", TOKEN), ("X-Admin-Token", "other")]
        await refused(client, "GET", "/admin/orgs", 401, headers=headers)


# Tenants and keys


async def test_an_operator_walks_from_an_org_to_a_key_and_back(admin: AdminClient) -> None:
    key = await make_key(admin, name="ci", expire_time="2030-01-02T03:04:05+02:00")
    assert key["key"] == "clsk_live_" + "0" * 32
    assert key["expire_time"] == "2030-01-02T01:04:05Z"
    assert key["create_time"] == "2026-11-18T11:06:40.123456Z"
    async with admin.get(f"/admin/keys/{key['id']}") as answer:
        shown = await answer.json()
    assert "key" not in shown
    assert shown == {name: value for name, value in key.items() if name != "key"}
    async with admin.get(f"/admin/environments/{key['environment_id']}/keys") as answer:
        assert await answer.json() == {"data": [shown], "next_page_token": None}
    async with admin.delete(f"/admin/keys/{key['id']}") as answer:
        assert (await answer.json())["status"] == "revoked"
    error = await refused(admin, "PATCH", f"/admin/keys/{key['id']}", 409, json={"name": "x"})
    assert error["code"] == "conflict"


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "1969-01-01T00:00:00Z", 5, ""]
)
async def test_a_key_that_ends_at_no_time_is_refused(admin: AdminClient, time: Any) -> None:
    org = await made(admin, "/admin/orgs", {"name": "Acme"})
    environment = await made(admin, f"/admin/orgs/{org['id']}/environments", {"name": "e"})
    path = f"/admin/environments/{environment['id']}/keys"
    error = await refused(admin, "POST", path, 400, json={"expire_time": time})
    assert error["param"] == "expire_time"


async def test_a_rotation_shows_the_new_secret_and_when_the_old_key_ends(admin: AdminClient) -> None:
    key = await make_key(admin)
    rotated = await made(admin, f"/admin/keys/{key['id']}/rotate", {"overlap_s": 3600})
    assert rotated["key"] == "clsk_live_" + "1" * 32
    assert rotated["id"] != key["id"]
    assert rotated["old_key"]["id"] == key["id"]
    assert rotated["old_key"]["expire_time"] is not None
    assert "key" not in rotated["old_key"]


async def test_a_patch_changes_only_what_it_names(admin: AdminClient, neighbours: Neighbours) -> None:
    org = await made(admin, "/admin/orgs", {"name": "Acme"})
    async with admin.patch(f"/admin/orgs/{org['id']}", json={"status": "suspended"}) as answer:
        assert (await answer.json())["status"] == "suspended"
    asked = neighbours.identity.asked[-1]
    assert not asked.HasField("name")
    environment = await made(
        admin, f"/admin/orgs/{org['id']}/environments", {"name": "e", "region": "us-east", "allowed_models": ["a"]}
    )
    async with admin.patch(
        f"/admin/environments/{environment['id']}", json={"allowed_models": [], "region": ""}
    ) as answer:
        changed = await answer.json()
    assert (changed["allowed_models"], changed["region"], changed["name"]) == ([], "", "e")


async def test_lists_are_walked_to_their_end_by_token(admin: AdminClient) -> None:
    for number in range(5):
        await made(admin, "/admin/orgs", {"name": f"org {number}"})
    names: list[str] = []
    token: str | None = ""
    for _ in range(3):
        async with admin.get("/admin/orgs", params={"page_size": "2", "page_token": token or ""}) as answer:
            page = await answer.json()
        names += [org["name"] for org in page["data"]]
        token = page["next_page_token"]
    assert token is None
    assert names == [f"org {number}" for number in range(5)]


async def test_a_retry_with_an_idempotency_key_is_the_same_create_to_identity(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    for key in ("a", "a", "b", None):
        headers = {"Idempotency-Key": key} if key else {}
        async with admin.post("/admin/orgs", json={"name": "Acme"}, headers=headers) as answer:
            assert answer.status == 201
    first, again, other, without = (asked.request_id for asked in neighbours.identity.asked)
    assert first == again != other
    assert without == ""


# Models, nodes, usage


async def test_prices_may_be_given_in_dollars_for_a_million_tokens(admin: AdminClient, neighbours: Neighbours) -> None:
    model = await made(
        admin,
        "/admin/models",
        {"name": "m", "context_length": 1, "input_usd_per_million": "0.05", "completion_price_picodollars": 7},
    )
    assert model["prompt_price_picodollars"] == 50_000
    assert model["input_usd_per_million"] == "0.05"
    assert model["output_usd_per_million"] == "0.000007"
    error = await refused(admin, "POST", "/admin/models", 409, json=MODEL)
    assert error["param"] == "name"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input_usd_per_million": "0.05"}, "input_usd_per_million"),
        ({"prompt_price_picodollars": None}, "prompt_price_picodollars"),
        ({"prompt_price_picodollars": 0.5}, "prompt_price_picodollars"),
        ({"prompt_price_picodollars": 10**12 + 1}, "prompt_price_picodollars"),
        ({"prompt_price_picodollars": 10**400}, "prompt_price_picodollars"),
        ({"context_length": "8192"}, "context_length"),
        ({"regions": ["us-east", "US"]}, "regions[1]"),
    ],
)
async def test_a_wrong_model_field_is_named(admin: AdminClient, change: dict[str, Any], param: str) -> None:
    error = await refused(admin, "POST", "/admin/models", 400, json={**MODEL, **change})
    assert error["param"] == param
    assert param in error["message"]


async def test_a_model_without_a_price_or_with_an_inexact_one_is_refused(admin: AdminClient) -> None:
    body = {"name": "m", "context_length": 1, "completion_price_picodollars": 7}
    error = await refused(admin, "POST", "/admin/models", 400, json=body)
    assert "`prompt_price_picodollars` or `input_usd_per_million` is missing" in error["message"]
    error = await refused(admin, "POST", "/admin/models", 400, json={**body, "input_usd_per_million": "0.0000001"})
    assert "whole number" in error["message"]


async def test_how_a_model_is_served_is_told_region_by_region(admin: AdminClient) -> None:
    asked = [{"region": "india", "strategy": "prefix_affinity"}, {"strategy": "least_latency"}]
    model = await made(admin, "/admin/models", {**MODEL, "name": "meta/llama", "deployments": asked})
    assert model["deployments"] == [{**asked[0], "region": "in-mumbai"}, {**asked[1], "region": ""}]
    path = "/admin/models/meta%2Fllama/deployments"
    async with admin.put(path, json={"deployments": [{"region": "us-east", "strategy": "round_robin"}]}) as answer:
        assert (await answer.json())["deployments"] == [{"region": "us-east", "strategy": "round_robin"}]
    twice = {"deployments": [{"region": "india"}, {"region": "mumbai"}]}
    assert (await refused(admin, "PUT", path, 400, json=twice))["param"] == "deployments"
    await refused(admin, "PUT", path, 400, json={"deployments": [{"strategy": "at_random"}]})
    await refused(admin, "PUT", "/admin/models/none/deployments", 404, json={"deployments": []})


async def test_a_customer_is_pinned_by_country_unless_a_region_is_named(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    org = await made(admin, "/admin/orgs", {"name": "Acme"})
    path = f"/admin/orgs/{org['id']}/environments"

    async def region(**asked: str) -> str:
        return str((await made(admin, path, {"name": f"e-{asked}", **asked}))["region"])

    assert await region(country="IN") == "in-mumbai"
    assert await region(country="DE") == "eu-frankfurt"
    assert await region(country="DE", region="us") == "us-virginia"
    assert await region(region="customer-site") == "customer-site"
    assert await region() == ""
    assert (await refused(admin, "POST", path, 400, json={"name": "e", "country": "AQ"}))["param"] == "country"
    # Identity compares lists of an organisation, its environments and its keys: one name each.
    named = {"name": "named", "region": "india", "fallback_regions": ["apac", "singapore", "europe"]}
    assert (await made(admin, path, named))["fallback_regions"] == ["ap-singapore", "eu-frankfurt"]
    allowed = await made(admin, "/admin/orgs", {"name": "Bound", "allowed_regions": ["mumbai", "us"]})
    assert allowed["allowed_regions"] == ["in-mumbai", "us-virginia"]
    async with admin.patch(f"/admin/orgs/{allowed['id']}", json={"allowed_regions": ["usa"]}) as answer:
        assert answer.status == 200
    assert list(neighbours.identity.asked[-1].allowed_regions.regions) == ["us-virginia"]
    async with admin.get("/admin/regions") as answer:
        rows = {row["code"]: row for row in (await answer.json())["data"]}
    assert rows["in-mumbai"]["fallback"] == ["ap-singapore", "eu-frankfurt", "us-virginia"]


async def test_nodes_are_listed_and_drained(admin: AdminClient, neighbours: Neighbours) -> None:
    async with admin.get("/admin/nodes") as answer:
        (node,) = (await answer.json())["data"]
    assert (node["status"], node["region"], node["models"], node["org_id"]) == (
        "active",
        "us-east",
        ["llama-3-8b"],
        None,
    )
    async with admin.post(f"/admin/nodes/{node['id']}/drain") as answer:
        assert (await answer.json())["status"] == "draining"
    await refused(admin, "POST", "/admin/nodes/nope/drain", 404)


async def test_a_nodes_log_is_read_on_from_a_cursor(admin: AdminClient, neighbours: Neighbours) -> None:
    logs = f"/admin/nodes/{neighbours.registry.node.id}/logs"
    async with admin.get(logs, params={"level": "warning", "source": "engine"}) as answer:
        page = await answer.json()
    (line,) = page["data"]
    assert (line["level"], line["source"], line["text"], page["dropped"]) == ("error", "engine", "out of memory", 3)
    assert neighbours.registry.asked[-1].source == 2  # the engine's
    async with admin.get(logs, params={"cursor": page["cursor"]}) as answer:
        assert (await answer.json())["data"] == []
    await refused(admin, "GET", "/admin/nodes/nope/logs", 404)
    await refused(admin, "GET", f"{logs}?level=loud", 400)


async def test_a_join_token_for_an_org_that_does_not_exist_is_refused(admin: AdminClient) -> None:
    assert (await made(admin, "/admin/nodes/join-tokens", {}))["join_token"] == "cljt_once"
    error = await refused(admin, "POST", "/admin/nodes/join-tokens", 400, json={"org_id": "nope"})
    assert error["param"] == "org_id"


async def test_a_cost_beyond_64_bits_is_exact_in_both_units(admin: AdminClient, neighbours: Neighbours) -> None:
    neighbours.accountant.rows[0].cost_picodollars = "123456789012345678901234567890"
    async with admin.get("/admin/usage", params={"group_by": "org,day"}) as answer:
        (row,) = (await answer.json())["data"]
    assert row["cost_picodollars"] == 123456789012345678901234567890
    assert row["cost_usd"] == "123456789012345678.90123456789"
    assert row["total_tokens"] == 15
    assert row["time"] == "2026-11-18T11:06:40.123456Z"
    assert "model" not in row


async def test_usage_is_asked_for_as_the_query_says(admin: AdminClient, neighbours: Neighbours) -> None:
    query = {
        "org_id": "o", "key_id": "k", "model": "m", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00+01:00",
        "group_by": "model,hour",
    }  # fmt: skip
    async with admin.get("/admin/usage", params=query) as answer:
        assert answer.status == 200
    asked = neighbours.accountant.asked[-1]
    assert (asked.filter.org_id, asked.filter.api_key_id, asked.filter.model) == ("o", "k", "m")
    assert asked.filter.from_time.ToJsonString() == "2026-01-01T00:00:00Z"
    assert asked.filter.to_time.ToJsonString() == "2026-01-31T23:00:00Z"
    assert list(asked.group_by) == [4, 6]


async def test_one_requests_record_is_found_by_its_id(admin: AdminClient, neighbours: Neighbours) -> None:
    async with admin.get("/admin/usage/records", params={"request_id": "r"}) as answer:
        (record,) = (await answer.json())["data"]
    assert neighbours.accountant.asked[-1].request_id == "r"
    assert (record["outcome"], record["count_source"], record["cost_usd"]) == (
        "succeeded",
        "engine_final",
        "0.00000075",
    )
    assert record["start_time"] == "2026-11-18T11:06:40.000001Z"


# Bad input


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b'{"name": "a", "nmae": 1}', "nmae", "Unknown field `nmae`"),
        (b"{}", "name", "`name` is missing"),
        (b'{"name": 1}', "name", "expected `str`"),
        (b'{"name": ""}', "name", "length >= 1"),
        (b'{"name": null}', "name", "got `null`"),
        (b"[]", None, "expected `object`"),
        (b"{", None, "not valid JSON"),
        (b"", None, "not valid JSON"),
        (b'{"name": "\\ud800"}', None, "not valid JSON"),
        (b'{"name": "\xff"}', None, "not valid JSON"),
        (b'{"name": NaN}', None, "not valid JSON"),
        (b'{"name": ' + b"[" * 100_000, "name", ""),
    ],
)
async def test_a_bad_body_gets_a_400_that_says_what_is_wrong(
    admin: AdminClient, neighbours: Neighbours, body: bytes, param: str | None, words: str
) -> None:
    error = await refused(admin, "POST", "/admin/orgs", 400, data=body, headers={"Content-Type": "application/json"})
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]
    assert not neighbours.identity.asked


async def test_another_content_type_is_a_415(admin: AdminClient) -> None:
    await refused(admin, "POST", "/admin/orgs", 415, data=b'{"name":"a"}', headers={"Content-Type": "text/plain"})


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/admin/orgs?page_sise=1", "page_sise"),
        ("/admin/orgs?page_size=x", "page_size"),
        ("/admin/orgs?page_size=0", "page_size"),
        ("/admin/orgs?page_size=1001", "page_size"),
        ("/admin/orgs?page_size=1&page_size=2", "page_size"),
        ("/admin/orgs/x?page_size=1", "page_size"),
        ("/admin/usage?from=yesterday", "from"),
        ("/admin/usage?from=12", "from"),
        ("/admin/usage?from=2026-01-01", "from"),
        ("/admin/usage?from=2026-01-01T00:00:00", "from"),
        ("/admin/usage?to=2026-13-01T00:00:00Z", "to"),
        ("/admin/usage?to=0001-01-01T00:00:00%2B23:59", "to"),
        ("/admin/usage?to=", "to"),
        ("/admin/usage?group_by=colour", "group_by"),
        ("/admin/usage?group_by=model,model", "group_by"),
        ("/admin/usage?group_by=org,key,model,region,day", "group_by"),
        ("/admin/usage/records?group_by=org", "group_by"),
    ],
)
async def test_a_bad_query_names_the_parameter(admin: AdminClient, path: str, param: str) -> None:
    error = await refused(admin, "GET", path, 400)
    assert error["param"] == param


async def test_a_field_name_from_the_client_comes_back_without_its_control_characters(admin: AdminClient) -> None:
    error = await refused(admin, "POST", "/admin/orgs", 400, json={"name": "a", "x\r\nSet-Cookie: a`é": 1})
    assert error["param"] == "xSet-Cookie: a`"


async def test_a_body_where_none_is_taken_is_refused_rather_than_ignored(admin: AdminClient) -> None:
    await refused(admin, "POST", "/admin/nodes/x/drain", 400, json={"force": True})


# Neighbours that fail


async def test_a_neighbour_that_is_away_is_a_503_that_names_nobody(admin: AdminClient, neighbours: Neighbours) -> None:
    neighbours.identity.fails = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "failed to connect to ipv4:10.1.2.3:7001"
    )
    error = await refused(admin, "GET", "/admin/orgs", 503)
    assert "10.1.2.3" not in str(error)


async def test_that_we_are_refused_by_a_neighbour_is_not_told_as_the_operators_fault(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    neighbours.identity.fails = rpc_error(CodedError(ErrorCode.PERMISSION_DENIED))
    error = await refused(admin, "GET", "/admin/orgs", 500)
    assert error["code"] == "internal_error"


async def test_a_neighbours_complaint_about_a_field_reaches_the_operator(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    neighbours.identity.fails = rpc_error(CodedError(ErrorCode.INVALID_ARGUMENT, "name is taken", param="name"))
    error = await refused(admin, "POST", "/admin/orgs", 400, json={"name": "a"})
    assert (error["message"], error["param"], error["request_id"]) == ("name is taken", "name", "test-request")


async def test_every_call_to_a_neighbour_has_a_deadline_and_the_requests_id(
    admin: AdminClient, neighbours: Neighbours
) -> None:
    async with admin.get("/admin/nodes"), admin.get("/admin/usage"), admin.get("/admin/orgs"):
        pass
    for stub in (neighbours.identity, neighbours.registry, neighbours.accountant):
        assert stub.timeouts == [3.0]
        assert stub.metadata == [(("x-request-id", "test-request"),)]

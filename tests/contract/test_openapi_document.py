"""The OpenAPI document says what the server does."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestServer
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from openapi_spec_validator import validate

from crosslogic_gateway.admin.routes import OPERATIONS, make_admin_routes
from crosslogic_gateway.openapi import build_document
from tests.fakes.admin_deployments import DEPLOYMENT_ID
from tests.fakes.admin_neighbours import TOKEN, AdminClient, Neighbours
from tests.fakes.admin_notifications import NOTIFICATION_ID
from tests.fakes.admin_orchestrator import INSTANCE_ID, JOB_ID


@pytest.fixture
def document() -> dict[str, Any]:
    return build_document("0.1.0")


@pytest.fixture
async def admin() -> AsyncIterator[AdminClient]:
    async with AdminClient(TestServer(Neighbours().app()), headers={"X-Admin-Token": TOKEN}) as client:
        yield client


def matches(document: dict[str, Any], schema: dict[str, Any], instance: Any) -> None:
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=FormatChecker()).validate(instance)


def test_client_generators_can_read_the_document(document: dict[str, Any]) -> None:
    validate(document)


async def test_the_server_serves_its_own_document_to_anybody(document: dict[str, Any]) -> None:
    async with AdminClient(TestServer(Neighbours().app())) as client, client.get("/openapi.json") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert await answer.json() == document


def test_every_admin_route_is_described_and_every_description_has_a_route(document: dict[str, Any]) -> None:
    routes = {(route.method, route.path) for route in make_admin_routes(Neighbours().deps)}
    described = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        if path.startswith("/admin")
        for method in item
    }
    assert routes == described
    assert len(routes) == len(OPERATIONS)


def test_the_paths_that_the_issue_promises_are_there(document: dict[str, Any]) -> None:
    promised = """
        POST|GET /admin/orgs
        GET|PATCH /admin/orgs/{id}
        POST|GET /admin/orgs/{id}/environments
        GET|PATCH /admin/environments/{id}
        POST|GET /admin/environments/{id}/keys
        GET|PATCH|DELETE /admin/keys/{id}
        POST /admin/keys/{id}/rotate
        POST|GET /admin/models
        PUT /admin/models/{model}/deployments
        GET /admin/regions
        GET /admin/nodes
        POST /admin/nodes/{id}/drain
        GET /admin/nodes/{id}/logs
        POST /admin/nodes/join-tokens
        GET /admin/usage
        GET /admin/usage/records
        POST /v1/chat/completions
        POST /v1/completions
        POST /v1/embeddings
        POST /v1/responses
        POST /v1/messages
        GET /v1/models
        GET /health
        GET /ready
        GET /metrics
    """
    for line in promised.strip().splitlines():
        methods, path = line.split()
        for method in methods.split("|"):
            assert method.lower() in document["paths"][path], line


def test_operation_names_are_unique_and_every_reference_resolves(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references == set(document["components"]["schemas"])


def test_every_admin_operation_wants_an_administrator_and_every_v1_operation_a_key(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        admin: list[dict[str, list[str]]] = [{"adminToken": []}, {"openId": []}, {"adminSession": []}]
        schemes = admin if path.startswith("/admin") else [{"apiKey": []}] if path.startswith("/v1/") else []
        for operation in item.values():
            assert operation["security"] == schemes, path


def patterns(schema: Any) -> Iterator[str]:
    """Every pattern in a schema."""
    if isinstance(schema, list):
        for each in schema:
            yield from patterns(each)
    elif isinstance(schema, dict):
        for name, value in schema.items():
            if name == "pattern" and isinstance(value, str):
                yield value
            else:
                yield from patterns(value)


def test_no_text_with_a_newline_after_it_passes_for_a_name_or_an_amount(document: dict[str, Any]) -> None:
    asked = [kind for each in OPERATIONS for kind in (each.body, each.query) if kind is not None]
    _, schemas = msgspec.json.schema_components(asked)
    ours = set(patterns(schemas))
    assert len(ours) > 10
    for pattern in ours:
        assert pattern.startswith("^"), pattern
        assert pattern.endswith(r"\Z"), pattern
    # Where `\Z` means nothing, `$` is the end.
    assert {pattern.replace(r"\Z", "$") for pattern in ours} <= set(patterns(document))
    assert not any(r"\Z" in pattern for pattern in patterns(document))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/admin/models/m/deployments", {"deployments": [{"region": "us-east\n"}]}),
        ("/admin/plans", {"name": "gold\n"}),
        ("/admin/prices", {"model": "m", "prompt_usd_per_million": "0.05\n", "completion_usd_per_million": "1"}),
    ],
)
async def test_a_newline_after_a_name_is_refused_at_the_door(admin: AdminClient, path: str, body: Any) -> None:
    method = "PUT" if path.endswith("deployments") else "POST"
    async with admin.request(method, path, json=body) as answer:
        assert answer.status == 400
        assert "matching regex" in (await answer.json())["error"]["message"]


async def first_answer(answer: ClientResponse) -> Any:
    """The answer, or the first of those that come as server-sent events."""
    if answer.content_type != "text/event-stream":
        return await answer.json()
    return json.loads((await answer.text()).partition("\n\n")[0].removeprefix("data: "))


async def test_every_operations_answer_is_what_the_document_says(admin: AdminClient, document: dict[str, Any]) -> None:
    ids: dict[str, str] = {"node": "00000000-0000-0000-0000-000000000063", "instance": INSTANCE_ID, "billing": "7"}
    ids["usage"] = ids["node"]
    ids["deployment"] = DEPLOYMENT_ID
    ids["notification"] = NOTIFICATION_ID
    bodies: dict[str, Any] = {
        "createOrg": {"name": "Acme"},
        "updateOrg": {"name": "Acme 2", "status": "suspended"},
        "createEnvironment": {"name": "production", "region": "us-east", "allowed_models": ["m"]},
        "updateEnvironment": {"status": "active"},
        "createKey": {"kind": "test", "expire_time": "2030-01-01T00:00:00Z"},
        "updateKey": {"allowed_models": []},
        "rotateKey": {"overlap_s": 60},
        "createModel": {
            "name": "m", "context_length": 8, "input_usd_per_million": "0.05", "output_usd_per_million": "1",
        },
        "replaceDeployments": {"deployments": [{"region": "in-mumbai", "strategy": "round_robin"}]},
        "createModelUpgrade": {"to_version": "v2"},
        "addModelVersion": {"manifest": "{}"},
        "registerModel": {
            "model": "m", "environment": "staging", "context_length": 8,
            "input_usd_per_million": "0.05", "output_usd_per_million": "1",
        },
        "enableModel": {"name": "m"},
        "disableModel": {"name": "m"},
        "promoteModel": {"model": "m", "from_environment": "staging", "to_environment": "production", "dry_run": True},
        "rollBackModel": {"name": "m"},
        "deregisterModel": {"name": "m"},
        "createJoinToken": {},
        "createPlan": {"name": "gold", "priority": "high", "key_limits": {"requests_per_second": 5}},
        "updatePlan": {"org_limits": {"tokens_per_day": 10}, "max_output_tokens": None},
        "createOrgUser": {"email": "a@example.com", "role": "admin"},
        "createPlatformUser": {"email": "b@example.com", "role": "read_only"},
        "updateUser": {"role": "developer"},
        "launchInstance": {"model_name": "m", "provider": "local", "region": "us-east"},
        "createDeployment": {"model": "m", "region": "us-east", "max_nodes": 3, "max_usd_per_hour": "12.5"},
        "updateDeployment": {"min_nodes": 1, "max_nodes": 2, "spot_share": 0.5, "mode": "dry_run", "revision": 1},
        "createPrices": {"model": "m", "prompt_usd_per_million": "0.05", "completion_usd_per_million": "1"},
        "setTerms": {"discount": "1/3", "tiers": [{"from_tokens": 10, "share": "0.9"}], "monthly_cap_usd": "99.5"},
        "setPlanTerms": {"unit_fee_usd": "12", "from_month": "2026-12"},
        "linkCustomer": {"name": "Acme", "country": "IN", "tax_id_type": "in_gst", "tax_id": "12ABC"},
        "signOffReconciliation": {"signed_by": "ada"},
        "setMachineCost": {
            "node_id": "n", "region": "us-east", "hourly_usd": "2.5", "from_time": "2026-11-01T00:00:00Z",
        },
        "createBudget": {"org_id": ids["node"], "name": "research", "limit_picodollars": 10, "owners": ["a"]},
        "updateBudget": {"hard": True},
        "createNotificationRoute": {
            "name": "pager", "channel": "webhook", "target": "https://hooks.example.com/x", "kinds": ["node_lost"],
            "quiet_hours": {"start": "22:00", "end": "07:00", "time_zone": "Asia/Kolkata"},
        },
        "updateNotificationRoute": {"quiet_hours": None, "rotate_secret": True},
        "correctUsageRecord": {"expected_revision": 0, "reason": "counted twice"},
    }  # fmt: skip
    queries = {
        "queryUsage": {"group_by": "org,environment,model,day"},
        "listUsageRecords": {"request_id": "r"},
        "compareUsage": {"from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z"},
        "queryFinops": {"from_time": "2026-11-01T00:00:00Z", "to_time": "2026-11-02T00:00:00Z"},
    }
    # What is revoked comes last.
    for operation in sorted(OPERATIONS, key=lambda operation: operation.method == "DELETE"):
        described = document["paths"][operation.path][operation.method.lower()]
        parent = operation.path.split("/")[2]
        path = operation.path.replace("{id}", ids.get(parent.removesuffix("s"), "none"))
        path = path.replace("{name}", "gold").replace("{job}", JOB_ID).replace("{model}", "m")
        body = bodies.get(operation.name)
        if body is not None:
            matches(document, described["requestBody"]["content"]["application/json"]["schema"], body)
        async with admin.request(operation.method, path, json=body, params=queries.get(operation.name)) as answer:
            given = await first_answer(answer)
            assert str(answer.status) in described["responses"], (operation.name, given)
            assert answer.status == operation.status, (operation.name, given)
            content = described["responses"][str(answer.status)]["content"][answer.content_type]
            matches(document, content["schema"], given)
        if operation.name in ("createOrg", "createEnvironment", "createKey", "createOrgUser", "createBudget"):
            ids[operation.name.removeprefix("create").removeprefix("Org").lower() or "org"] = given["id"]
        if operation.name == "createModelUpgrade":
            ids["upgrade"] = given["id"]


async def test_errors_are_what_the_document_says(admin: AdminClient, document: dict[str, Any]) -> None:
    error = {"$ref": "#/components/schemas/Error"}
    for method, path, status in (
        ("GET", "/admin/orgs/none", 404),
        ("POST", "/admin/orgs", 415),
        ("GET", "/admin/usage?group_by=x", 400),
    ):
        async with admin.request(method, path, data=b"x") as answer:
            assert answer.status == (400 if method == "GET" and status == 404 else status)
            matches(document, error, await answer.json())

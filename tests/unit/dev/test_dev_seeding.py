"""What `make up` makes through the admin API, and what it leaves alone."""

from collections.abc import Mapping
from typing import Any

import pytest

from crosslogic_dev.admin_api import AdminApi, HttpAnswer
from crosslogic_dev.failure import DevError
from crosslogic_dev.plan import Plan
from crosslogic_dev.seeding import seed

PLAN = Plan(engine="sim", model="", nodes=1)


class FakeGateway(AdminApi):
    """Organisations, environments and keys in memory; remembers what was asked."""

    def __init__(self) -> None:
        super().__init__("http://gateway", "token")
        object.__setattr__(self, "rows", {})
        object.__setattr__(self, "calls", [])
        object.__setattr__(self, "working_keys", set())
        object.__setattr__(self, "just_up", [])

    rows: dict[str, dict[str, Any]]
    calls: list[str]
    working_keys: set[str]
    just_up: list[None]
    """So many calls find a service away."""

    def key_works(self, key: str) -> bool:
        return key in self.working_keys

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> HttpAnswer:
        self.calls.append(f"{method} {path}")
        if self.just_up:
            self.just_up.pop()
            return HttpAnswer(503, {})
        if method == "GET":
            if path.endswith("/environments"):
                return HttpAnswer(200, {"data": [self.rows[i] for i in self.rows if i.startswith("env")]})
            found = path.rpartition("/")[2] in self.rows
            return HttpAnswer(200 if found else 404, {})
        if path == "/admin/models":
            known = "model" in self.rows
            self.rows["model"] = dict(body or {})
            return HttpAnswer(409 if known else 201, {})
        if path.endswith("/keys"):
            key = f"clsk_live_{len(self.working_keys)}"
            self.working_keys.add(key)
            return HttpAnswer(201, {"id": "k", "key": key})
        row_id = f"{'env' if path.endswith('environments') else 'org'}{len(self.rows)}"
        self.rows[row_id] = {"id": row_id, **(body or {})}
        return HttpAnswer(201, self.rows[row_id])


def test_a_new_suite_gets_a_tenant_a_key_and_its_model() -> None:
    gateway = FakeGateway()
    seeded = seed(gateway, PLAN, model="tiny", context_length=100, api_key="")
    assert seeded.api_key in gateway.working_keys
    assert gateway.rows["model"]["context_length"] == 100


def test_a_service_that_is_only_just_up_is_asked_again() -> None:
    gateway = FakeGateway()
    gateway.just_up.extend([None] * 2)
    assert seed(gateway, PLAN, model="tiny", context_length=100, api_key="").api_key in gateway.working_keys
    assert gateway.calls.count("POST /admin/models") == 3


def test_a_second_make_up_keeps_the_key_that_people_have_pasted() -> None:
    gateway = FakeGateway()
    first = seed(gateway, PLAN, model="tiny", context_length=100, api_key="")
    again = seed(gateway, first.plan, model="tiny", context_length=100, api_key=first.api_key)
    assert again == first
    assert len(gateway.working_keys) == 1


def test_a_revoked_key_is_replaced_without_a_second_tenant() -> None:
    gateway = FakeGateway()
    first = seed(gateway, PLAN, model="tiny", context_length=100, api_key="")
    gateway.working_keys.clear()
    again = seed(gateway, first.plan, model="tiny", context_length=100, api_key=first.api_key)
    assert again.plan == first.plan
    assert again.api_key in gateway.working_keys


def test_a_wiped_database_gets_a_new_tenant() -> None:
    gateway = FakeGateway()
    first = seed(gateway, PLAN, model="tiny", context_length=100, api_key="")
    seeded = seed(FakeGateway(), first.plan, model="tiny", context_length=100, api_key=first.api_key)
    assert seeded.api_key


def test_a_gateway_that_refuses_the_model_stops_make_up_with_its_reason() -> None:
    class Refusing(FakeGateway):
        def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> HttpAnswer:
            return HttpAnswer(400, {"error": "no such region"})

    with pytest.raises(DevError, match="no such region"):
        seed(Refusing(), PLAN, model="tiny", context_length=100, api_key="")

"""What a key may do, put together from key, environment, organisation and plan; and what may be stored of it."""

from dataclasses import replace
from typing import Any

import pytest

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_identity import checks, messages, policy
from crosslogic_identity.domain import (
    ApiKey,
    Environment,
    EnvironmentChanges,
    KeyOwner,
    Limits,
    Org,
    OrgChanges,
    Plan,
    PlanChanges,
)
from crosslogic_identity.plans import Plans
from crosslogic_identity.service import IdentityService
from tests.fakes.identity_store import NOBODY, FakeClock, FakeStore

NOW = FakeClock().now()
OWNER = KeyOwner(
    ApiKey("k", "o", "e", "", "live", "active", "", (), None, None, NOW),
    Environment("e", "o", "production", "active", "", (), NOW, NOW),
    Org("o", "Acme", "active", "salt", NOW, NOW),
    Plan(name="default", created_at=NOW, updated_at=NOW),
)


def owner(**parts: dict[str, Any]) -> KeyOwner:
    return replace(OWNER, **{part: replace(getattr(OWNER, part), **changes) for part, changes in parts.items()})


def test_a_key_without_terms_has_the_documented_defaults_and_nothing_else() -> None:
    principal = messages.principal(OWNER)
    assert principal.key_limits == pb.Limits(requests_per_minute=1_000)
    assert principal.environment_limits == pb.Limits(requests_per_minute=10_000)
    assert principal.org_limits == pb.Limits(requests_per_minute=50_000)
    assert (principal.plan, principal.priority, principal.residency_pinned) == ("default", pb.PRIORITY_NORMAL, False)
    assert not principal.hard_budgets
    assert not principal.allowed_regions


def test_each_limit_is_its_own_then_the_plans_then_the_default() -> None:
    principal = messages.principal(
        owner(
            key={"limits": Limits(requests_per_minute=7, concurrency=1)},
            plan={
                "key_limits": Limits(requests_per_minute=100, tokens_per_day=5),
                "environment_limits": Limits(tokens_per_hour=9),
                "org_limits": Limits(requests_per_minute=2**53 - 1),
            },
        )
    )
    assert principal.key_limits == pb.Limits(requests_per_minute=7, concurrency=1, tokens_per_day=5)
    assert principal.environment_limits == pb.Limits(requests_per_minute=10_000, tokens_per_hour=9)
    assert principal.org_limits == pb.Limits(requests_per_minute=2**53 - 1)


@pytest.mark.parametrize(("environment", "plan", "expected"), [(0, 0, 0), (5, 0, 5), (0, 5, 5), (3, 5, 3), (9, 5, 5)])
def test_an_environment_cannot_ask_for_longer_answers_than_its_plan(environment: int, plan: int, expected: int) -> None:
    principal = messages.principal(
        owner(environment={"max_output_tokens": environment}, plan={"max_output_tokens": plan})
    )
    assert principal.max_output_tokens == expected


def test_every_monthly_cap_on_the_way_is_a_hard_budget_and_the_orgs_own_replaces_the_plans() -> None:
    whole = owner(
        key={"monthly_cap_picodollars": 1},
        environment={"monthly_cap_picodollars": 2},
        plan={"monthly_cap_picodollars": 3},
    )
    budgets = messages.principal(whole).hard_budgets
    assert [(budget.id, budget.limit_picodollars) for budget in budgets] == [
        ("org:o:month", 3),
        ("environment:e:month", 2),
        ("api_key:k:month", 1),
    ]
    own = owner(org={"monthly_cap_picodollars": 4}, plan={"monthly_cap_picodollars": 3})
    assert messages.principal(own).monthly_cap_picodollars == 4


@pytest.mark.parametrize(
    ("environment", "org", "key", "expected"),
    [
        (("us", (), False), (), (), ("us", (), False)),
        (("", (), False), (), (), ("", (), False)),
        (("us", (), True), (), (), ("us", ("us",), True)),
        (("us", ("eu", "ap"), False), (), (), ("us", ("us", "eu", "ap"), False)),
        (("us", ("eu", "ap"), False), ("us", "ap"), (), ("us", ("us", "ap"), False)),
        (("us", ("eu",), False), (), ("eu",), ("eu", ("eu",), True)),
        (("", (), False), ("eu", "us"), (), ("eu", ("eu", "us"), False)),
        (("", (), False), ("eu", "us"), ("us",), ("us", ("us",), True)),
        (("us", (), False), ("us", "eu"), (), ("us", ("us", "eu"), False)),
        (("us", (), False), (), ("us",), ("us", ("us",), True)),
        (("us", (), True), ("us", "eu"), (), ("us", ("us",), True)),
    ],
)
def test_a_request_never_leaves_the_regions_that_org_environment_and_key_allow(
    environment: tuple[str, tuple[str, ...], bool],
    org: tuple[str, ...],
    key: tuple[str, ...],
    expected: tuple[str, tuple[str, ...], bool],
) -> None:
    region, fallbacks, pinned = environment
    whole = owner(
        environment={"region": region, "fallback_regions": fallbacks, "residency_pinned": pinned},
        org={"allowed_regions": org},
        key={"allowed_regions": key},
    )
    assert policy.regions_of(whole) == expected


@pytest.mark.parametrize(("org", "key"), [(("eu",), ()), ((), ("eu",)), (("us",), ("eu",))])
def test_a_key_with_no_region_left_is_refused_rather_than_served_elsewhere(
    org: tuple[str, ...], key: tuple[str, ...]
) -> None:
    whole = owner(
        environment={"region": "us", "residency_pinned": True},
        org={"allowed_regions": org},
        key={"allowed_regions": key},
    )
    with pytest.raises(CodedError) as raised:
        policy.refuse_unless_usable(whole, NOW)
    assert raised.value.code == ErrorCode.PERMISSION_DENIED


def test_a_suspended_key_is_told_so_and_a_revoked_one_is_unknown() -> None:
    for status, code in (("suspended", ErrorCode.TENANT_SUSPENDED), ("revoked", ErrorCode.INVALID_API_KEY)):
        with pytest.raises(CodedError) as raised:
            policy.refuse_unless_usable(owner(key={"status": status}), NOW)
        assert raised.value.code == code


# What may be stored


@pytest.mark.parametrize(
    ("check", "value", "param"),
    [
        (lambda value: checks.limits("limits", value), Limits(requests_per_minute=0), "limits.requests_per_minute"),
        (lambda value: checks.limits("limits", value), Limits(concurrency=2**53), "limits.concurrency"),
        (checks.cidrs, ("10.0.0.1/8",), "allowed_cidrs"),
        (checks.cidrs, ("everywhere",), "allowed_cidrs"),
        (checks.cidrs, ("10.0.0.0/8",) * 101, "allowed_cidrs"),
        (checks.reserved, (("m", 0),), "reserved_capacity"),
        (checks.reserved, (("m", 1), ("m", 2)), "reserved_capacity"),
        (checks.reserved, (("m", 10**9 + 1),), "reserved_capacity"),
        (lambda value: checks.regions("allowed_regions", value), ("US",), "allowed_regions"),
        (checks.plan_name, "Gold Plan", "name"),
        (checks.email, "nobody", "email"),
        (checks.email, "a b@example.com", "email"),
        (lambda value: checks.picodollars("monthly_cap_picodollars", value), 2**63, "monthly_cap_picodollars"),
        (lambda value: checks.tokens("max_prompt_tokens", value), 2**31, "max_prompt_tokens"),
        (checks.reason, "x" * 1_001, "reason"),
    ],
)
def test_a_term_that_makes_no_sense_is_refused_by_name(check: Any, value: Any, param: str) -> None:
    with pytest.raises(CodedError) as raised:
        check(value)
    assert (raised.value.code, raised.value.param) == (ErrorCode.INVALID_ARGUMENT, param)


@pytest.mark.parametrize("name", ["a\0b", "", "Gold Plan", "x" * 10_000, "é"])
async def test_what_cannot_be_a_plan_names_none_and_does_not_reach_the_database(name: str) -> None:
    clock = FakeClock()
    plans = Plans(store=FakeStore(clock), clock=clock)
    for attempt in (plans.plan(name), plans.change(name, PlanChanges(priority="high"), NOBODY)):
        with pytest.raises(CodedError) as raised:
            await attempt
        assert raised.value.code == ErrorCode.NOT_FOUND


def test_networks_are_kept_in_one_form() -> None:
    assert checks.cidrs(("192.0.2.1", "2001:DB8:0::/32", "192.0.2.1/32")) == ("192.0.2.1/32", "2001:db8::/32")


async def test_an_environment_whose_parts_contradict_is_refused_also_bit_by_bit() -> None:
    clock = FakeClock()
    service = IdentityService(store=FakeStore(clock), clock=clock, ids=Uuid7Source())
    org = await service.create_org(OrgChanges(name="Acme"), "", NOBODY)
    for asked in (
        EnvironmentChanges(name="e", residency_pinned=True),
        EnvironmentChanges(name="e", fallback_regions=("eu",)),
        EnvironmentChanges(name="e", region="us", fallback_regions=("eu",), residency_pinned=True),
    ):
        with pytest.raises(CodedError):
            await service.create_environment(org.id, asked, "", NOBODY)
    pinned = EnvironmentChanges(name="e", region="us", residency_pinned=True)
    environment = await service.create_environment(org.id, pinned, "", NOBODY)
    for change in (EnvironmentChanges(region=""), EnvironmentChanges(fallback_regions=("eu",))):
        with pytest.raises(CodedError):
            await service.change_environment(environment.id, change, NOBODY)
    assert await service.environment(environment.id) == environment

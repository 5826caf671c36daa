"""Budgets on a real PostgreSQL: spending is counted once, owners are told once, hard ones are never passed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from crosslogic_accountant.budgets.domain import Budget, Period, Scope, period_start
from crosslogic_accountant.budgets.read_store import SpendQuery, SpendReader
from crosslogic_accountant.budgets.store import BudgetChange, BudgetStore
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import open_pool
from tests.fakes.accountant_database import prepare_ledger
from tests.fakes.accountant_money import Books, Tenant


@pytest.fixture
async def books(pg_url: str) -> AsyncIterator[Books]:
    await prepare_ledger(pg_url)
    async with open_pool(pg_url, schema="ledger", max_size=16, wait_s=60.0) as pool:
        opened = Books(pg_url, pool)
        yield opened
        await opened.close()


async def spend(books: Books, tenant: Tenant, *costs: int) -> None:
    await books.ledger.commit([tenant.usage(cost) for cost in costs])
    await books.roll()


async def test_owners_are_told_once_at_each_threshold(books: Books) -> None:
    tenant, budgets = Tenant(), BudgetStore(pool=books.pool)
    budget = tenant.budget(1000)
    await budgets.create(budget)

    async def told() -> list[tuple[int, int, bool]]:
        events = await budgets.events(org_id=tenant.org_id, budget_id=None, after=0, limit=100)
        assert all(event.owners == budget.owners and event.budget_id == budget.id for event in events)
        assert [event.sequence for event in events] == sorted({event.sequence for event in events})
        return [(event.threshold_percent, event.spent_picodollars, event.stopped) for event in events]

    await spend(books, tenant, 499)
    assert await told() == []
    await spend(books, tenant, 1)
    assert await told() == [(50, 500, False)]
    await spend(books, tenant, 10)
    await spend(books, tenant, 600, 5)
    assert await told() == [(50, 500, False), (80, 1115, True), (100, 1115, True)]
    await spend(books, tenant, 600)
    assert len(await told()) == 3
    state = await budgets.get(budget.id)
    assert (state.spent_picodollars, state.period_start) == (1715, period_start(Period.MONTH, datetime.now(UTC)))


async def test_each_scope_counts_its_own_spending_and_nobody_elses(books: Books) -> None:
    tenant, budgets = Tenant(), BudgetStore(pool=books.pool)
    sibling = Tenant(org_id=tenant.org_id, environment_id=tenant.environment_id)
    cousin = Tenant(org_id=tenant.org_id)
    stranger = Tenant()
    whole = tenant.budget(10**6, hard=False)

    def narrowed(scope: Scope, **changes: object) -> Budget:
        return replace(whole, id=uuid4(), scope=scope, **changes)  # type: ignore[arg-type]

    made = {
        "org": whole,
        "environment": narrowed(Scope.ENVIRONMENT, scope_id=tenant.environment_id),
        "key": narrowed(Scope.API_KEY, scope_id=tenant.api_key_id),
        "department": narrowed(
            Scope.DEPARTMENT,
            environment_ids=(tenant.environment_id,),
            api_key_ids=tuple(sorted((tenant.api_key_id, cousin.api_key_id))),
        ),
        "foreign": replace(narrowed(Scope.API_KEY, scope_id=tenant.api_key_id), org_id=stranger.org_id),
    }
    await spend(books, tenant, 1)
    for budget in made.values():
        await budgets.create(budget)
        assert (await budgets.create(budget)).budget == budget
    await spend(books, tenant, 10, 10)
    await spend(books, sibling, 100)
    await spend(books, cousin, 1000)
    await spend(books, stranger, 10_000)
    spent = {name: (await budgets.get(budget.id)).spent_picodollars for name, budget in made.items()}
    assert spent == {"org": 1121, "environment": 121, "key": 21, "department": 1121, "foreign": 0}


async def test_500_requests_at_once_never_hold_more_than_a_budget_has(books: Books) -> None:
    tenant, budgets = Tenant(), BudgetStore(pool=books.pool)
    budget = tenant.budget(1000)
    key_budget = replace(
        tenant.budget(10**6, period=Period.DAY), id=uuid4(), scope=Scope.API_KEY, scope_id=tenant.api_key_id
    )
    await budgets.create(budget)
    await budgets.create(key_budget)
    await spend(books, tenant, 300)
    holds = [tenant.hold(70, prepaid=False) for _ in range(500)]

    answers = await asyncio.gather(*map(books.has_room, holds))
    let_in = [hold for hold, done in zip(holds, answers, strict=True) if done]
    assert len(let_in) == 10
    state = await budgets.get(budget.id)
    assert (state.spent_picodollars, state.held_picodollars) == (300, 700)
    assert (await budgets.get(key_budget.id)).held_picodollars == 700
    # One is given back, one is spent in part and its record comes later, the rest have their records.
    await books.holds.resolve(let_in[0].id, 0)
    await books.holds.resolve(let_in[1].id, 40)
    assert (await budgets.get(budget.id)).held_picodollars == 600
    await books.ledger.commit([tenant.usage(40, let_in[1].id), *(tenant.usage(60, hold.id) for hold in let_in[2:])])
    await books.roll()
    state = await budgets.get(budget.id)
    assert (state.spent_picodollars, state.held_picodollars) == (300 + 40 + 8 * 60, 0)
    assert await books.problems(tenant) == []


async def test_a_gateway_that_watches_sees_every_change_in_order(books: Books) -> None:
    tenant, budgets = Tenant(), BudgetStore(pool=books.pool)
    _, version = await budgets.changed(0, limit=1000)
    first, second = tenant.budget(1000), tenant.budget(2000)
    await budgets.create(first)
    await budgets.create(second)
    states, version = await budgets.changed(version, limit=1000)
    assert [state.budget.id for state in states] == [first.id, second.id]
    assert await budgets.changed(version, limit=1000) == ([], version)
    await spend(books, tenant, 7)
    await budgets.update(second.id, BudgetChange(limit_picodollars=5, name="less", owners=("a", "b")))
    states, version = await budgets.changed(version, limit=1000)
    assert {state.budget.id: state.spent_picodollars for state in states} == {first.id: 7, second.id: 7}
    events = await budgets.events(org_id=None, budget_id=second.id, after=0, limit=10)
    assert [(event.threshold_percent, event.limit_picodollars, event.owners) for event in events] == [
        (percent, 5, ("a", "b")) for percent in (50, 80, 100)
    ]
    await budgets.delete(first.id)
    states, version = await budgets.changed(version, limit=1)
    assert [(state.budget.id, state.deleted) for state in states] == [(first.id, True)]
    with pytest.raises(CodedError) as caught:
        await budgets.get(first.id)
    assert caught.value.code is ErrorCode.NOT_FOUND
    assert [state.budget.id for state in await budgets.page(tenant.org_id, after=0, limit=10)] == [second.id]


async def test_spending_so_far_holds_everything_that_was_acknowledged(books: Books) -> None:
    tenant, now = Tenant(), datetime.now(UTC)
    sibling = Tenant(org_id=tenant.org_id, environment_id=tenant.environment_id)
    await spend(books, tenant, 100)
    await books.ledger.commit([tenant.usage(11), sibling.usage(1000)])
    queries = [
        SpendQuery(Scope.ORG, tenant.org_id, Period.MONTH),
        SpendQuery(Scope.ENVIRONMENT, tenant.environment_id, Period.DAY),
        SpendQuery(Scope.API_KEY, tenant.api_key_id, Period.DAY),
        SpendQuery(Scope.API_KEY, sibling.api_key_id, Period.MONTH),
        SpendQuery(Scope.ORG, uuid4(), Period.DAY),
        SpendQuery(Scope.ORG, tenant.org_id, Period.MONTH),
    ]
    reader = SpendReader(pool=books.pool)
    spends, sequence = await reader.read(queries, now)
    assert [each.spent_picodollars for each in spends] == [1111, 1111, 111, 1000, 0, 1111]
    assert [each.tokens for each in spends] == [360, 360, 240, 120, 0, 360]
    await books.roll()
    assert (await reader.read(queries, now)) == (spends, sequence)

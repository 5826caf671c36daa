"""A process that dies at any await of any money operation: what it began never was, and doing it again does it once.

Experiment 13. Death is a connection that is cut right after one statement: that is all the database sees of it.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import psycopg
import pytest

from crosslogic_accountant.budgets.store import BudgetStore
from crosslogic_accountant.correction_store import Correction, Corrections
from crosslogic_accountant.money.settlement_store import settle
from crosslogic_accountant.rollups.store import RollupStore
from crosslogic_accountant.usage_queries import Filter, UsageQueries
from crosslogic_common.errors import CodedError
from crosslogic_common.postgres import open_pool
from tests.fakes.accountant_database import prepare_ledger, writer_connection
from tests.fakes.accountant_money import Books, Tenant

_MOST_AWAITS = 60
_CREDIT = 1_000


class DiedError(Exception):
    """The process is gone."""


@dataclass
class Death:
    """Comes at one statement."""

    at: int
    seen: int = 0
    struck: bool = False

    async def pass_by(self, run: Callable[[], Awaitable[Any]], cursor: Any) -> Any:
        self.seen += 1
        answer = await run()
        if self.seen != self.at:
            return answer
        self.struck = True
        await cursor.connection.close()
        raise DiedError


@contextlib.contextmanager
def death(at: int) -> Iterator[Death]:
    """Kills whoever has run statement number `at`, before the next one or the commit."""
    coming = Death(at)
    execute, executemany = psycopg.AsyncCursor.execute, psycopg.AsyncCursor.executemany

    async def dying_execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await coming.pass_by(lambda: execute(self, *args, **kwargs), self)

    async def dying_executemany(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await coming.pass_by(lambda: executemany(self, *args, **kwargs), self)

    with (
        mock.patch.object(psycopg.AsyncCursor, "execute", dying_execute),
        mock.patch.object(psycopg.AsyncCursor, "executemany", dying_executemany),
    ):
        yield coming


@pytest.fixture
async def books(pg_url: str) -> AsyncIterator[Books]:
    await prepare_ledger(pg_url)
    async with open_pool(pg_url, schema="ledger", max_size=4) as pool:
        opened = Books(pg_url, pool)
        yield opened
        await opened.close()


@dataclass
class Case:
    """One tenant, and one operation that is done until it is done."""

    books: Books
    url: str
    tenant: Tenant

    async def prepare(self) -> None:
        await self.books.money.post(self.tenant.top_up(_CREDIT))
        await BudgetStore(pool=self.books.pool).create(self.tenant.budget(10**6))
        self.hold = self.tenant.hold(300)
        await self.books.holds.reserve(self.hold, expires_in_s=600)
        self.usage = self.tenant.usage(200, self.hold.id)
        self.other = self.tenant.usage(6_400_000)
        self.transfer = self.tenant.top_up(7)
        self.next_hold = self.tenant.hold(100)
        self.budget = self.tenant.budget(500)
        self.correction = Correction(
            correction_id=uuid4(),
            request_id=UUID(bytes=self.other.record.request_id),
            expected_revision=0,
            reason="waived",
            author="test",
            prompt_price_picodollars=0,
            completion_price_picodollars=0,
        )
        await self.books.ledger.commit([self.other])

    async def roll(self) -> None:
        await self.books.ledger.commit([self.usage])
        store = RollupStore(connection=writer_connection(self.url), on_rolled=settle)
        try:
            while await store.roll():
                pass
        finally:
            await store.close()

    async def reserve(self) -> None:
        await self.books.holds.reserve(self.next_hold, expires_in_s=600)

    async def resolve(self) -> None:
        await self.books.holds.resolve(self.hold.id, 120)

    async def post(self) -> None:
        await self.books.money.post(self.transfer)

    async def correct(self) -> None:
        await Corrections(pool=self.books.pool).correct(self.correction)

    async def make_budget(self) -> None:
        await BudgetStore(pool=self.books.pool).create(self.budget)

    async def end_state(self) -> tuple[object, ...]:
        """Everything that could be wrong once all is settled."""
        await self.roll()
        queries, budgets = UsageQueries(pool=self.books.pool), BudgetStore(pool=self.books.pool)
        (total,), _ = await queries.sums(Filter(org_id=self.tenant.org_id), [], limit=1, token="")
        states = await budgets.page(self.tenant.org_id, after=0, limit=10)
        events = await budgets.events(org_id=self.tenant.org_id, budget_id=None, after=0, limit=100)
        return (
            (total.requests, total.cost_picodollars),
            await self.books.balances(self.tenant),
            [(state.spent_picodollars, state.held_picodollars) for state in states],
            sorted((event.threshold_percent, event.spent_picodollars) for event in events),
            await self.books.problems(self.tenant),
        )


_OPERATIONS = ("roll", "reserve", "resolve", "post", "correct", "make_budget")


@pytest.mark.parametrize("operation", _OPERATIONS)
async def test_death_at_any_await_leaves_nothing_half_done(books: Books, pg_url: str, operation: str) -> None:
    undisturbed = Case(books, pg_url, Tenant())
    await undisturbed.prepare()
    await getattr(undisturbed, operation)()
    wanted = await undisturbed.end_state()
    assert wanted[-1] == []
    deaths = 0
    for at in range(1, _MOST_AWAITS):
        case = Case(books, pg_url, Tenant())
        await case.prepare()
        with death(at) as coming, contextlib.suppress(DiedError, CodedError):
            await getattr(case, operation)()
        if not coming.struck:
            break
        deaths += 1
        await getattr(case, operation)()
        assert await case.end_state() == wanted, f"died at statement {at}"
    else:
        pytest.fail("the operation never came to its end")
    assert deaths >= 3

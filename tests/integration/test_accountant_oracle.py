"""Any order of top-ups, holds, records, corrections and deaths leaves the books as plain sums say (experiment 17).

`LEDGER_STEPS=100000` does as many steps; the suite does a few hundred.
"""

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from crosslogic_accountant.budgets.store import BudgetStore
from crosslogic_accountant.correction_store import Correction, Corrections
from crosslogic_accountant.domain import Counts, CountSource, Outcome
from crosslogic_accountant.money.settlement_store import settle
from crosslogic_accountant.ports import PreparedRecord
from crosslogic_accountant.rollups.store import Rolled, RollupStore
from crosslogic_accountant.usage_queries import Filter, UsageQueries
from crosslogic_common.postgres import Connection, open_pool
from tests.fakes.accountant_database import prepare_ledger, writer_connection
from tests.fakes.accountant_money import Books, Tenant
from tests.fakes.accountant_oracle import Oracle

_STEPS_AN_EXAMPLE = 40
_STEPS = int(os.environ.get("LEDGER_STEPS", "320"))
_AMOUNTS = st.one_of(st.integers(1, 100), st.integers(1, 10**20))
_LIMIT = 2**63 - 1
Result = TypeVar("Result")


class World:
    """One database and one event loop for all examples; each example is a tenant of its own."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self.url = url
        self._runner = runner
        self._stack = contextlib.AsyncExitStack()
        self.books = self.run(self._open())

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(work)

    def close(self) -> None:
        self.run(self.books.close())
        self.run(self._stack.aclose())

    async def _open(self) -> Books:
        await prepare_ledger(self.url)
        pool = await self._stack.enter_async_context(open_pool(self.url, schema="ledger", max_size=4))
        return Books(self.url, pool)


@pytest.fixture
def world(pg_url: str) -> Iterator[World]:
    with asyncio.Runner() as runner:
        opened = World(pg_url, runner)
        yield opened
        opened.close()


class BooksMachine(RuleBasedStateMachine):
    """What operators, gateways, billing and death do to the ledger."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.books = self.world.books
        self.tenant = Tenant()
        self.oracle = Oracle(limit=_LIMIT)
        self.records: dict[UUID, PreparedRecord] = {}
        self.revisions: dict[UUID, tuple[int, int]] = {}
        self.all_holds: list[UUID] = []
        self.budget = self.tenant.budget(_LIMIT)
        self.world.run(BudgetStore(pool=self.books.pool).create(self.budget))

    @rule(amount=_AMOUNTS, twice=st.booleans())
    def top_up(self, amount: int, twice: bool) -> None:
        transfer = self.tenant.top_up(amount)
        for before in [False, True][: 1 + twice]:
            assert self.world.run(self.books.money.post(transfer)) is before
        self.oracle.prepaid += amount
        self.oracle.cash += amount
        self.oracle.topped_up = True

    @rule(amount=_AMOUNTS)
    def grant(self, amount: int) -> None:
        self.world.run(self.books.money.post(self.tenant.grant(amount)))
        self.oracle.free += amount
        self.oracle.granted += amount

    @rule(amount=_AMOUNTS)
    def reserve(self, amount: int) -> None:
        hold = self.tenant.hold(amount)
        assert self.world.run(self.books.has_room(hold)) is self.oracle.reserve(hold.id, amount)
        self.all_holds.append(hold.id)

    @precondition(lambda self: any(hold.posted is None for hold in self.oracle.holds.values()))
    @rule(data=st.data())
    def resolve(self, data: st.DataObject) -> None:
        pending = sorted(hold_id for hold_id, hold in self.oracle.holds.items() if hold.posted is None)
        hold_id = data.draw(st.sampled_from(pending))
        spent = data.draw(st.integers(0, self.oracle.holds[hold_id].amount))
        _, before = self.world.run(self.books.holds.resolve(hold_id, spent))
        assert not before
        self.oracle.end(hold_id, spent, record_comes=True)
        _, before = self.world.run(self.books.holds.resolve(hold_id, 0))
        assert before

    @precondition(lambda self: any(hold.posted is None for hold in self.oracle.holds.values()))
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        pending = sorted(hold_id for hold_id, hold in self.oracle.holds.items() if hold.posted is None)
        hold_id = data.draw(st.sampled_from(pending))
        self.world.run(self._make_old(hold_id))
        assert self.world.run(self.books.holds.expire()) == 1
        self.oracle.end(hold_id, 0, record_comes=False)

    @rule(cost=st.one_of(st.just(0), _AMOUNTS), data=st.data())
    def record(self, cost: int, data: st.DataObject) -> None:
        fresh = [hold_id for hold_id in self.all_holds if hold_id not in self.records]
        request_id = data.draw(st.sampled_from([None, *fresh]))
        usage = self.tenant.usage(cost, request_id)
        key = UUID(bytes=usage.record.request_id)
        self.world.run(self.books.ledger.commit([usage, usage]))
        self.records[key] = usage
        self.revisions[key] = (0, cost)
        self.oracle.unsettled.append((key, cost, True))

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.records)))
        self.world.run(self.books.ledger.commit([self.records[key]]))

    @precondition(lambda self: self.records)
    @rule(tokens=st.integers(0, 1000), data=st.data())
    def correct(self, tokens: int, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.records)))
        revision, cost = self.revisions[key]
        asked = Correction(
            correction_id=uuid4(),
            request_id=key,
            expected_revision=revision,
            reason="tried",
            author="test",
            counts=Counts(tokens, 0, 0, CountSource.ENGINE_FINAL),
            outcome=Outcome.SUCCEEDED,
            prompt_price_picodollars=3,
            completion_price_picodollars=0,
        )
        made = self.world.run(Corrections(pool=self.books.pool).correct(asked))
        assert made.row.record.cost_picodollars == 3 * tokens
        self.revisions[key] = (made.row.revision, 3 * tokens)
        self.oracle.unsettled += [(key, -cost, False), (key, 3 * tokens, False)]

    @rule()
    def roll(self) -> None:
        self.world.run(self.books.roll())
        self.oracle.settle()

    @precondition(lambda self: self.oracle.unsettled)
    @rule(settled_before=st.booleans())
    def die_while_rolling(self, settled_before: bool) -> None:
        async def dies(connection: Connection, rolled: Rolled) -> None:
            if settled_before:
                await settle(connection, rolled)
            raise ProcessDiedError

        async def roll() -> None:
            store = RollupStore(connection=writer_connection(self.world.url), on_rolled=dies)
            try:
                with pytest.raises(ProcessDiedError):
                    await store.roll()
            finally:
                await store.close()

        self.world.run(roll())

    @invariant()
    def the_books_are_what_plain_sums_say(self) -> None:
        assert self.world.run(self.books.balances(self.tenant)) == self.oracle.balances()

    def teardown(self) -> None:
        self.roll()
        self.the_books_are_what_plain_sums_say()
        assert self.world.run(self.books.problems(self.tenant)) == []
        state = self.world.run(BudgetStore(pool=self.books.pool).get(self.budget.id))
        assert (state.spent_picodollars, state.held_picodollars) == (self.oracle.spent, self.oracle.held)
        queries = UsageQueries(pool=self.books.pool)
        (total,), _ = self.world.run(queries.sums(Filter(org_id=self.tenant.org_id), [], limit=1, token=""))
        assert (total.requests, total.cost_picodollars) == (len(self.records), self.oracle.spent)

    async def _make_old(self, hold_id: UUID) -> None:
        async with self.books.pool.connection() as connection:
            await connection.execute(
                "UPDATE open_holds SET expire_time = now() - interval '1 s' WHERE hold_id = %s", (hold_id,)
            )


class ProcessDiedError(Exception):
    """Stands for a kill between two statements: the transaction never commits."""


def test_the_books_equal_an_oracles_after_any_history(world: World) -> None:
    machine = type("Machine", (BooksMachine,), {"world": world})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(_STEPS // _STEPS_AN_EXAMPLE, 1),
            stateful_step_count=_STEPS_AN_EXAMPLE,
            deadline=None,
            derandomize="LEDGER_STEPS" not in os.environ,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )

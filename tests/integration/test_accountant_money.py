"""The money ledger on a real PostgreSQL: it balances, nobody changes it, and no dollar is spent twice."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import psycopg
import pytest

from crosslogic_accountant.correction_store import Correction, Corrections
from crosslogic_accountant.money.domain import Account, HoldState, Transfer, TransferKind
from crosslogic_accountant.money.store import add_transfers, open_accounts
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import open_pool
from tests.fakes.accountant_database import prepare_ledger
from tests.fakes.accountant_money import Books, Tenant

_DOLLAR = 10**12


@pytest.fixture
async def books(pg_url: str) -> AsyncIterator[Books]:
    await prepare_ledger(pg_url)
    async with open_pool(pg_url, schema="ledger", max_size=16, wait_s=60.0) as pool:
        opened = Books(pg_url, pool)
        yield opened
        await opened.close()


async def test_a_top_up_that_is_sent_twice_is_posted_once(books: Books) -> None:
    tenant = Tenant()
    top_up = tenant.top_up(5 * _DOLLAR)
    answers = await asyncio.gather(*(books.money.post(top_up) for _ in range(5)))
    assert sorted(answers) == [False, True, True, True, True]
    assert await books.balances(tenant) == {Account.PREPAID: -5 * _DOLLAR, Account.CASH: 5 * _DOLLAR}
    other = Transfer(top_up.id, tenant.org_id, TransferKind.TOP_UP, {Account.PREPAID: -1, Account.CASH: 1})
    with pytest.raises(CodedError, match="another transfer") as caught:
        await books.money.post(other)
    assert caught.value.code is ErrorCode.CONFLICT


@pytest.mark.parametrize(
    "postings",
    [{Account.RECEIVABLE: 2, Account.REVENUE: -1}, {Account.RECEIVABLE: 2, Account.REVENUE: 0}],
    ids=["unbalanced", "of nothing"],
)
async def test_the_database_refuses_books_that_do_not_balance(books: Books, postings: dict[Account, int]) -> None:
    tenant = Tenant()
    transfer = Transfer(uuid4(), tenant.org_id, TransferKind.FEE, postings)
    with pytest.raises(psycopg.errors.CheckViolation):  # noqa: PT012  # refused at once, or when the block commits
        async with books.pool.connection() as connection:
            await open_accounts(connection, tenant.org_id, postings)
            await add_transfers(connection, [transfer])
    assert await books.balances(tenant) == {}


async def test_nobody_adds_to_a_transfer_or_moves_a_balance_by_hand(books: Books) -> None:
    tenant = Tenant()
    top_up = tenant.top_up(100)
    await books.money.post(top_up)
    add_pair = (
        "WITH made AS (INSERT INTO accounts (org_id, kind) VALUES (%(org)s, 1), (%(org)s, 5) RETURNING id, kind) "
        "INSERT INTO postings SELECT %(transfer)s, id, CASE kind WHEN 1 THEN 7 ELSE -7 END FROM made"
    )
    for statement in (
        add_pair,
        "UPDATE accounts SET balance_picodollars = 0 WHERE org_id = %(org)s",
        "INSERT INTO accounts (org_id, kind, balance_picodollars) VALUES (%(org)s, 7, 5)",
        "DELETE FROM postings WHERE transfer_id = %(transfer)s",
        "UPDATE transfers SET reason = 'other' WHERE id = %(transfer)s",
        "TRUNCATE postings",
        "DELETE FROM accounts WHERE org_id = %(org)s",
        "UPDATE hold_ends SET amount_picodollars = 0",
    ):
        async with books.pool.connection() as connection:
            with pytest.raises((psycopg.errors.RestrictViolation, psycopg.errors.CheckViolation)):  # noqa: PT012
                await connection.execute(statement.encode(), {"org": tenant.org_id, "transfer": top_up.id})
                await connection.commit()
    assert await books.balances(tenant) == {Account.PREPAID: -100, Account.CASH: 100}
    assert await books.problems(tenant) == []


async def test_500_requests_at_once_on_the_last_dollar_never_spend_more_than_it(books: Books) -> None:
    tenant = Tenant()
    await books.money.post(tenant.grant(_DOLLAR // 4))
    await books.money.post(tenant.top_up(3 * _DOLLAR // 4))
    each = _DOLLAR // 40
    holds = [tenant.hold(each) for _ in range(500)]

    answers = await asyncio.gather(*map(books.has_room, holds))
    let_in = [number for number, done in enumerate(answers) if done]
    assert len(let_in) == 40
    assert await books.balances(tenant) == {
        Account.RESERVED: -_DOLLAR,
        Account.CASH: 3 * _DOLLAR // 4,
        Account.GRANTED: _DOLLAR // 4,
    }
    # Each cost something else: less, nothing, all, and one more than it had held.
    costs = [each * (number % 3) // 2 for number in range(39)] + [each + 5]
    usage = [tenant.usage(cost, holds[number].id) for number, cost in zip(let_in, costs, strict=True)]
    await books.ledger.commit(usage)
    await books.roll()
    balances = await books.balances(tenant)
    spent = sum(costs)
    assert balances[Account.REVENUE] == -spent
    assert -balances.get(Account.PREPAID, 0) - balances.get(Account.FREE_TIER, 0) == _DOLLAR - spent
    assert Account.RESERVED not in balances
    assert Account.RECEIVABLE not in balances
    assert await books.problems(tenant) == []


async def test_what_is_not_covered_by_credit_is_owed(books: Books) -> None:
    tenant = Tenant()
    await books.money.post(tenant.grant(30))
    await books.money.post(tenant.top_up(50))
    await books.ledger.commit([tenant.usage(100)])
    await books.roll()
    assert await books.balances(tenant) == {
        Account.RECEIVABLE: 20,
        Account.REVENUE: -100,
        Account.CASH: 50,
        Account.GRANTED: 30,
    }
    (newest, *_) = await books.money.transfers(tenant.org_id, before=None, limit=10)
    assert newest.transfer.kind is TransferKind.USAGE
    assert newest.transfer.postings == {
        Account.RECEIVABLE: 20,
        Account.PREPAID: 50,
        Account.FREE_TIER: 30,
        Account.REVENUE: -100,
    }
    with pytest.raises(CodedError, match="not so much credit"):
        await books.money.post(
            Transfer(uuid4(), tenant.org_id, TransferKind.ADJUSTMENT, {Account.PREPAID: 1, Account.CASH: -1}, "refund")
        )


async def test_a_hold_is_ended_once_whoever_ends_it(books: Books) -> None:
    tenant = Tenant()
    await books.money.post(tenant.top_up(1000))
    hold = tenant.hold(600)
    assert [await books.holds.reserve(hold, expires_in_s=60) for _ in range(2)] == [False, True]
    answers = await asyncio.gather(*(books.holds.resolve(hold.id, spent) for spent in (600, 250, 0, 100)))
    assert sorted(before for _, before in answers) == [False, True, True, True]
    ends = {(stored.state, stored.spent_picodollars) for stored, _ in answers}
    assert len(ends) == 1
    ((_, spent),) = ends
    assert -(await books.balances(tenant))[Account.PREPAID] == 1000 - spent
    assert await books.problems(tenant) == []
    other = tenant.hold(100)
    await books.holds.reserve(other, expires_in_s=60)
    with pytest.raises(CodedError, match="more than was held"):
        await books.holds.resolve(other.id, 101)
    with pytest.raises(CodedError, match="another hold"):
        await books.holds.reserve(tenant.hold(5, hold_id=hold.id), expires_in_s=60)
    with pytest.raises(CodedError) as caught:
        await books.holds.resolve(uuid4(), 0)
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_a_record_after_a_hold_that_was_ended_by_hand_is_charged_for_the_rest_only(books: Books) -> None:
    tenant = Tenant()
    await books.money.post(tenant.top_up(1000))
    hold = tenant.hold(600)
    await books.holds.reserve(hold, expires_in_s=60)
    await books.holds.resolve(hold.id, 400)
    usage = tenant.usage(450, hold.id)
    await books.ledger.commit([usage])
    await books.roll()
    await books.ledger.commit([usage])
    await books.roll()
    balances = await books.balances(tenant)
    assert (balances[Account.PREPAID], balances[Account.REVENUE]) == (-550, -450)
    assert await books.problems(tenant) == []


async def test_a_hold_whose_time_is_over_gives_its_money_back_and_the_late_record_is_charged(books: Books) -> None:
    tenant = Tenant()
    await books.money.post(tenant.top_up(1000))
    hold = tenant.hold(600)
    await books.holds.reserve(hold, expires_in_s=60)
    async with books.pool.connection() as connection:
        await connection.execute(
            "UPDATE open_holds SET expire_time = now() - interval '1 s' WHERE hold_id = %s", (hold.id,)
        )
    counts = await asyncio.gather(*(books.holds.expire() for _ in range(3)))
    assert sum(counts) == 1
    assert (await books.balances(tenant))[Account.PREPAID] == -1000
    stored, before = await books.holds.resolve(hold.id, 5)
    assert (stored.state, before) == (HoldState.EXPIRED, True)
    await books.ledger.commit([tenant.usage(300, hold.id)])
    await books.roll()
    assert (await books.balances(tenant))[Account.PREPAID] == -700
    assert await books.problems(tenant) == []


async def test_another_tenants_record_never_ends_a_hold(books: Books) -> None:
    owner, stranger = Tenant(), Tenant()
    await books.money.post(owner.top_up(1000))
    hold = owner.hold(600)
    await books.holds.reserve(hold, expires_in_s=60)
    await books.ledger.commit([stranger.usage(10, hold.id)])
    await books.roll()
    assert (await books.balances(owner))[Account.RESERVED] == -600
    assert await books.balances(stranger) == {Account.RECEIVABLE: 10, Account.REVENUE: -10}


async def test_a_correction_gives_the_money_back(books: Books) -> None:
    tenant = Tenant()
    await books.money.post(tenant.top_up(10_000_000))
    usage = tenant.usage(6_400_000)
    await books.ledger.commit([usage])
    await books.roll()
    assert (await books.balances(tenant))[Account.PREPAID] == -3_600_000
    waive = Correction(
        correction_id=uuid4(),
        request_id=UUID(bytes=usage.record.request_id),
        expected_revision=0,
        reason="our fault",
        author="operator",
        prompt_price_picodollars=0,
        completion_price_picodollars=0,
    )
    await Corrections(pool=books.pool).correct(waive)
    await books.roll()
    balances = await books.balances(tenant)
    assert balances == {Account.PREPAID: -10_000_000, Account.CASH: 10_000_000}
    assert await books.problems(tenant) == []


async def test_books_that_were_spoilt_are_found(books: Books) -> None:
    tenant = Tenant()
    await books.money.post(tenant.top_up(100))
    async with books.pool.connection() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE accounts SET balance_picodollars = -99 WHERE org_id = %s AND kind = 2", (tenant.org_id,)
        )
    (problem,) = await books.problems(tenant)
    assert "balance is not the sum" in problem

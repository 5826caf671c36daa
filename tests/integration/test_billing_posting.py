"""The money ledger is told what months and payments come to: each transfer once, and the sums are the charges."""

from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction

import pytest

from crosslogic_billing.export.stripe_sink import Invoice
from crosslogic_billing.posting.domain import Transfer
from crosslogic_billing.posting.poster import Poster
from crosslogic_billing.posting.store import PostgresTransfers
from crosslogic_billing.rating.domain import Terms
from crosslogic_billing.webhooks.store import PostgresWebhooks
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.billing_bench import NOW, Bench, bench


@dataclass
class Money:
    """A money ledger in memory: one transfer an id."""

    posted: dict[str, Transfer] = field(default_factory=dict)
    fails: CodedError | None = None
    loses_answers: bool = False

    async def post(self, transfer: Transfer) -> None:
        if self.fails is not None:
            raise self.fails
        assert self.posted.setdefault(transfer.id, transfer) == transfer
        if self.loses_answers:
            raise CodedError(ErrorCode.UNAVAILABLE)

    def balance(self, org_id: str, account: str) -> int:
        sums: defaultdict[str, int] = defaultdict(int)
        for transfer in self.posted.values():
            if transfer.org_id == org_id:
                sums[transfer.debit] += transfer.amount
                sums[transfer.credit] -= transfer.amount
        assert sum(sums.values()) == 0
        return sums[account]


@dataclass
class Desk:
    """A bench with a poster."""

    bench: Bench
    money: Money
    poster: Poster

    async def settled(self, **later: float) -> None:
        self.bench.clock.advance(**(later or {"minutes": 2}))
        await self.bench.close()
        await self.poster.look()


@pytest.fixture
async def desk(pg_url: str) -> AsyncIterator[Desk]:
    async with bench(pg_url) as world:
        money = Money()
        yield Desk(world, money, Poster(transfers=PostgresTransfers(world.pool), money=money, clock=world.clock))


async def test_what_is_free_is_taken_off_what_the_ledger_has_at_list_price(desk: Desk) -> None:
    org, _ = await desk.bench.customer(Terms(free_tokens=100, discount=Fraction(1, 2)))
    desk.bench.ledger.use(org, NOW, prompt=300, price=10)
    await desk.settled()
    # 3,000 at list; 200 tokens of 10 at half price are charged.
    assert desk.money.balance(org, "receivable") == 1_000 - 3_000
    assert desk.money.balance(org, "revenue") == 2_000
    desk.bench.ledger.use(org, desk.bench.clock.now(), prompt=100, price=10)
    await desk.settled()
    assert len(desk.money.posted) == 1, "more often than once an hour"
    await desk.settled(hours=2)
    assert desk.money.balance(org, "receivable") == 1_500 - 4_000
    await desk.settled(hours=2)
    assert len(desk.money.posted) == 2, "nothing has changed"


async def test_a_correction_gives_back_what_it_took(desk: Desk) -> None:
    org, _ = await desk.bench.customer(Terms(free_tokens=100))
    row = desk.bench.ledger.use(org, NOW, prompt=300, price=10)
    await desk.settled()
    desk.bench.ledger.correct(row, prompt=50)
    await desk.settled(hours=2)
    assert desk.money.balance(org, "receivable") == -500
    assert desk.bench.ledger.cost(org) + desk.money.balance(org, "receivable") == 0


async def test_reserved_capacity_is_owed_from_the_first_moment_of_the_month_used_or_not(desk: Desk) -> None:
    terms = Terms(mode="reserved", reserved_units={"llama-3-8b": 2}, unit_fee_picodollars=10**12)
    org, customer = await desk.bench.customer(terms)
    await desk.settled()
    await desk.bench.send()
    assert desk.money.balance(org, "receivable") == 2 * 10**12
    assert desk.bench.stripe.total("crosslogic_reserved_picodollars", customer) == 2 * 10**12
    # Within it nothing is charged, although the ledger has it at its price.
    desk.bench.ledger.use(org, desk.bench.clock.now(), prompt=100, price=10)
    await desk.settled(hours=2)
    await desk.bench.send()
    assert desk.money.balance(org, "receivable") == 2 * 10**12 - 1_000
    assert desk.bench.stripe.total("crosslogic_reserved_picodollars", customer) == 2 * 10**12
    assert desk.bench.stripe.total("crosslogic_standard_picodollars", customer) == 0
    desk.bench.clock.time = datetime(2026, 12, 1, 0, 0, 1, tzinfo=UTC)
    await desk.settled()
    await desk.bench.send()
    assert desk.bench.stripe.total("crosslogic_reserved_picodollars", customer) == 4 * 10**12


async def test_prepaid_credit_that_was_spent_on_free_tokens_comes_back(desk: Desk) -> None:
    org, _ = await desk.bench.customer(Terms(free_tokens=100, collection="prepaid"))
    desk.bench.ledger.use(org, NOW, prompt=100, price=10)
    await desk.settled()
    assert desk.money.balance(org, "prepaid") == -1_000
    assert desk.money.balance(org, "receivable") == 0


@pytest.mark.parametrize("loses_answers", [False, True])
async def test_a_money_ledger_that_is_away_is_told_later_and_once(desk: Desk, loses_answers: bool) -> None:
    org, _ = await desk.bench.customer(Terms(free_tokens=100))
    desk.bench.ledger.use(org, NOW, prompt=100, price=10)
    desk.money.loses_answers = loses_answers
    desk.money.fails = None if loses_answers else CodedError(ErrorCode.UNAVAILABLE)
    for _ in range(3):
        with pytest.raises(CodedError):
            await desk.settled()
    desk.money.loses_answers, desk.money.fails = False, None
    await desk.settled()
    assert desk.money.balance(org, "receivable") == -1_000


async def test_a_transfer_that_is_refused_holds_up_no_other_and_is_kept(desk: Desk) -> None:
    org, _ = await desk.bench.customer(Terms(free_tokens=100))
    desk.bench.ledger.use(org, NOW, prompt=100, price=10)
    desk.money.fails = CodedError(ErrorCode.CONFLICT, "no credit")
    await desk.settled()
    desk.money.fails = None
    other, _ = await desk.bench.customer(Terms(free_tokens=100))
    desk.bench.ledger.use(other, desk.bench.clock.now(), prompt=100, price=10)
    await desk.settled()
    assert desk.money.balance(other, "receivable") == -1_000
    assert await desk.bench.rows("SELECT refused FROM transfers WHERE org_id = %s", org) == [("no credit",)]


async def test_a_paid_invoice_is_a_payment_once_however_often_it_is_told(desk: Desk) -> None:
    org, customer = await desk.bench.customer()
    webhooks = PostgresWebhooks(desk.bench.pool)

    def invoice(paid_cents: int, currency: str = "usd", id_: str = "in_1") -> Invoice:
        return Invoice(id_, customer, "A-1", "open", currency, 1_000, paid_cents, NOW, NOW, NOW, "")

    for paid_cents in (0, 400, 400, 1_000, 1_000, 400):
        await webhooks.invoice(org, invoice(paid_cents), failed_at=None, now=NOW)
    await webhooks.invoice(org, invoice(500, "inr", "in_2"), failed_at=None, now=NOW)
    await desk.poster.look()
    assert desk.money.balance(org, "cash") == 10 * 10**12
    assert desk.money.balance(org, "receivable") == -10 * 10**12

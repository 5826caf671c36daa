"""What is debited and credited: books that balance whatever happens, credit spent in its order, nothing below zero."""

from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from crosslogic_accountant.money.domain import Account, Credit
from crosslogic_accountant.money.policy import (
    charged,
    credit_for,
    held,
    postings_problem,
    resolution_id,
    resolved,
    usage_transfer_id,
)

_AMOUNTS = st.integers(0, 10**30)
_BALANCES = st.fixed_dictionaries(
    {},
    optional={
        Account.PREPAID: _AMOUNTS.map(lambda amount: -amount),
        Account.FREE_TIER: _AMOUNTS.map(lambda amount: -amount),
        Account.RECEIVABLE: st.integers(-(10**30), 10**30),
    },
)


@given(st.integers(-(10**30), 10**30).filter(bool), _BALANCES)
def test_a_charge_balances_and_overdraws_no_credit(amount: int, balances: dict[Account, int]) -> None:
    postings = charged(amount, balances)
    assert postings_problem(postings) == ""
    assert postings[Account.REVENUE] == -amount
    for account in (Account.PREPAID, Account.FREE_TIER):
        assert balances.get(account, 0) + postings.get(account, 0) <= 0
    if amount > 0 and postings.get(Account.RECEIVABLE):
        # Something is owed only once all credit is spent.
        assert all(
            balances.get(account, 0) + postings.get(account, 0) == 0 for account in (Account.PREPAID, Account.FREE_TIER)
        )


@given(st.integers(1, 10**30), _BALANCES, st.data())
def test_a_hold_and_its_end_leave_what_was_not_spent_where_it_was(
    amount: int, balances: dict[Account, int], data: st.DataObject
) -> None:
    available = -balances.get(Account.PREPAID, 0) - balances.get(Account.FREE_TIER, 0)
    credit = credit_for(amount, balances)
    assert (credit is None) == (amount > available)
    if credit is None:
        return
    spent = data.draw(st.integers(0, amount))
    ends = resolved(credit, spent)
    assert postings_problem(held(credit)) == postings_problem(ends) == ""
    moved = {
        account: held(credit).get(account, 0) + ends.get(account, 0)
        for account in (Account.PREPAID, Account.FREE_TIER, Account.RESERVED, Account.REVENUE)
    }
    assert moved[Account.RESERVED] == 0
    assert moved[Account.PREPAID] + moved[Account.FREE_TIER] == spent == -moved[Account.REVENUE]


def test_free_credit_is_spent_before_paid_credit() -> None:
    balances = {Account.FREE_TIER: -30, Account.PREPAID: -100}
    assert charged(50, balances) == {Account.FREE_TIER: 30, Account.PREPAID: 20, Account.REVENUE: -50}
    assert credit_for(50, balances) == Credit(free_picodollars=30, prepaid_picodollars=20)


def test_money_given_back_shrinks_what_is_owed_first() -> None:
    assert charged(-50, {Account.RECEIVABLE: 20, Account.PREPAID: 0}) == {
        Account.RECEIVABLE: -20,
        Account.PREPAID: -30,
        Account.REVENUE: 50,
    }
    assert charged(-50, {}) == {Account.RECEIVABLE: -50, Account.REVENUE: 50}


def test_the_same_rows_make_the_same_transfer_and_others_another() -> None:
    org = uuid4()
    assert usage_transfer_id(org, 0, 10) == usage_transfer_id(org, 0, 10)
    ids = {usage_transfer_id(org, 0, 10), usage_transfer_id(org, 0, 11), usage_transfer_id(uuid4(), 0, 10)}
    assert len(ids | {resolution_id(org)}) == 4

"""What is debited and credited, pure. Every function returns postings whose sum is 0."""

from collections.abc import Mapping
from uuid import NAMESPACE_OID, UUID, uuid5

from crosslogic_accountant.money.domain import Account, Credit, Postings

_USAGE = uuid5(NAMESPACE_OID, "crosslogic.accountant.usage")
_END = uuid5(NAMESPACE_OID, "crosslogic.accountant.hold_end")


def usage_transfer_id(org_id: UUID, after: int, reached: int) -> UUID:
    """The id of the transfer of what an organisation's rows after a sequence and up to another cost."""
    return uuid5(_USAGE, f"{org_id}/{after}-{reached}")


def resolution_id(hold_id: UUID) -> UUID:
    """The id of the transfer that ends a hold."""
    return uuid5(_END, str(hold_id))


def charged(amount: int, balances: Mapping[Account, int]) -> Postings:
    """What an organisation used: free-tier credit is spent first, then prepaid credit; the rest it owes.

    A negative amount gives back: what is owed shrinks first, the rest becomes prepaid credit where there ever was any.
    """
    if amount >= 0:
        free = min(amount, max(-balances.get(Account.FREE_TIER, 0), 0))
        prepaid = min(amount - free, max(-balances.get(Account.PREPAID, 0), 0))
        return _without_zeros(
            {
                Account.RECEIVABLE: amount - free - prepaid,
                Account.PREPAID: prepaid,
                Account.FREE_TIER: free,
                Account.REVENUE: -amount,
            }
        )
    back = -amount
    owed = min(back, max(balances.get(Account.RECEIVABLE, 0), 0)) if Account.PREPAID in balances else back
    return _without_zeros({Account.RECEIVABLE: -owed, Account.PREPAID: owed - back, Account.REVENUE: back})


def credit_for(amount: int, balances: Mapping[Account, int]) -> Credit | None:
    """Where the money for a hold comes from, free tier first. None: there is not enough."""
    free = min(amount, max(-balances.get(Account.FREE_TIER, 0), 0))
    prepaid = amount - free
    return None if prepaid > max(-balances.get(Account.PREPAID, 0), 0) else Credit(free, prepaid)


def held(credit: Credit) -> Postings:
    """Money set aside."""
    return _without_zeros(
        {
            Account.PREPAID: credit.prepaid_picodollars,
            Account.FREE_TIER: credit.free_picodollars,
            Account.RESERVED: -credit.free_picodollars - credit.prepaid_picodollars,
        }
    )


def resolved(credit: Credit, spent: int) -> Postings:
    """The end of a hold of which `spent` was used, free tier first: the rest goes back where it came from."""
    total = credit.free_picodollars + credit.prepaid_picodollars
    free = min(spent, credit.free_picodollars)
    prepaid = spent - free
    return _without_zeros(
        {
            Account.PREPAID: prepaid - credit.prepaid_picodollars,
            Account.FREE_TIER: free - credit.free_picodollars,
            Account.RESERVED: total,
            Account.REVENUE: -spent,
        }
    )


def postings_problem(postings: Postings) -> str:
    """Why these postings cannot be posted; empty if they can."""
    if len(postings) < 2:  # noqa: PLR2004  # from one account to another
        return "A transfer has at least two postings."
    if any(amount == 0 for amount in postings.values()):
        return "A posting of nothing is none."
    total = sum(postings.values())
    return f"The postings do not balance: their sum is {total}." if total else ""


def _without_zeros(postings: Postings) -> Postings:
    return {account: amount for account, amount in postings.items() if amount}

"""The money ledger again, as plain sums of whole numbers: what the real one is compared with."""

from dataclasses import dataclass, field
from uuid import UUID

from crosslogic_accountant.money.domain import Account


@dataclass
class OracleHold:
    """A hold, as the oracle remembers it."""

    amount: int
    free: int
    prepaid: int
    posted: int | None = None
    """Ended by hand with so much; its record is still to come."""


@dataclass
class Oracle:
    """One organisation with one hard budget."""

    limit: int
    free: int = 0
    prepaid: int = 0
    reserved: int = 0
    owed: int = 0
    revenue: int = 0
    cash: int = 0
    granted: int = 0
    topped_up: bool = False
    spent: int = 0
    holds: dict[UUID, OracleHold] = field(default_factory=dict)
    unsettled: list[tuple[UUID, int, bool]] = field(default_factory=list)
    """Rows of the ledger that are not settled: request, cost with its sign, whether it is the request's first."""

    @property
    def held(self) -> int:
        return sum(hold.amount if hold.posted is None else hold.posted for hold in self.holds.values())

    def reserve(self, hold_id: UUID, amount: int) -> bool:
        if self.spent + self.held + amount > self.limit or amount > self.free + self.prepaid:
            return False
        free = min(amount, self.free)
        self.free -= free
        self.prepaid -= amount - free
        self.reserved += amount
        self.holds[hold_id] = OracleHold(amount, free, amount - free)
        return True

    def end(self, hold_id: UUID, spent: int, *, record_comes: bool) -> None:
        hold = self.holds[hold_id]
        from_free = min(spent, hold.free)
        self.free += hold.free - from_free
        self.prepaid += hold.prepaid - (spent - from_free)
        self.reserved -= hold.amount
        self.revenue += spent
        if record_comes and spent:
            hold.posted = spent
        else:
            del self.holds[hold_id]

    def settle(self) -> None:
        charge = 0
        for request_id, cost, first in self.unsettled:
            charge += cost
            self.spent += cost
            hold = self.holds.get(request_id) if first else None
            if hold is None:
                continue
            if hold.posted is None:
                spent = min(cost, hold.amount)
                self.end(request_id, spent, record_comes=False)
            else:
                spent = hold.posted
                del self.holds[request_id]
            charge -= spent
        self.unsettled.clear()
        self.revenue += charge
        if charge >= 0:
            from_free = min(charge, self.free)
            from_prepaid = min(charge - from_free, self.prepaid)
            self.free -= from_free
            self.prepaid -= from_prepaid
            self.owed += charge - from_free - from_prepaid
        else:
            back = -charge
            shrink = min(back, max(self.owed, 0)) if self.topped_up else back
            self.owed -= shrink
            self.prepaid += back - shrink

    def balances(self) -> dict[Account, int]:
        """As the ledger shows them: debits positive, nothing that is 0."""
        amounts = {
            Account.RECEIVABLE: self.owed,
            Account.PREPAID: -self.prepaid,
            Account.FREE_TIER: -self.free,
            Account.RESERVED: -self.reserved,
            Account.REVENUE: -self.revenue,
            Account.CASH: self.cash,
            Account.GRANTED: self.granted,
        }
        return {account: amount for account, amount in amounts.items() if amount}

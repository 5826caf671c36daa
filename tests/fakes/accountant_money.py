"""An organisation of its own in a real ledger: it is charged, it holds money, it has budgets."""

from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

from crosslogic_accountant.budgets.domain import Budget, Period, Scope
from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.ledger_store import LedgerStore
from crosslogic_accountant.money.domain import Account, Hold, Transfer, TransferKind
from crosslogic_accountant.money.hold_store import HoldStore
from crosslogic_accountant.money.settlement_store import settle
from crosslogic_accountant.money.store import MoneyStore
from crosslogic_accountant.ports import PreparedRecord
from crosslogic_accountant.rollups.store import RollupStore
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Pool
from tests.fakes.accountant_database import ledger_store, writer_connection
from tests.fakes.accountant_samples import IDS, prepared, sample_context, sample_record


@dataclass
class Tenant:
    """An organisation with one environment and one key."""

    org_id: UUID = field(default_factory=uuid4)
    environment_id: UUID = field(default_factory=uuid4)
    api_key_id: UUID = field(default_factory=uuid4)

    def usage(self, cost: int, request_id: UUID | None = None) -> PreparedRecord:
        """A record that costs so many pico-dollars."""
        context = sample_context(
            request_id=str(request_id or IDS.next()),
            org_id=str(self.org_id),
            environment_id=str(self.environment_id),
            api_key_id=str(self.api_key_id),
        )
        record = replace(prepared(sample_record(context)).record, cost_picodollars=cost)
        return PreparedRecord(record, usage_row(LedgerRow(record)))

    def hold(self, amount: int, *, prepaid: bool = True, hold_id: UUID | None = None) -> Hold:
        return Hold(
            id=hold_id or IDS.next(),
            org_id=self.org_id,
            environment_id=self.environment_id,
            api_key_id=self.api_key_id,
            amount_picodollars=amount,
            prepaid=prepaid,
        )

    def top_up(self, amount: int) -> Transfer:
        return Transfer(
            uuid4(), self.org_id, TransferKind.TOP_UP, {Account.PREPAID: -amount, Account.CASH: amount}, "top-up"
        )

    def grant(self, amount: int) -> Transfer:
        return Transfer(
            uuid4(), self.org_id, TransferKind.GRANT, {Account.FREE_TIER: -amount, Account.GRANTED: amount}, "grant"
        )

    def budget(self, limit: int, *, hard: bool = True, period: Period = Period.MONTH) -> Budget:
        return Budget(
            id=uuid4(),
            org_id=self.org_id,
            scope=Scope.ORG,
            scope_id=None,
            environment_ids=(),
            api_key_ids=(),
            name="all of it",
            period=period,
            limit_picodollars=limit,
            hard=hard,
            thresholds_percent=(50, 80, 100),
            owners=("owner@example.com",),
        )


class Books:
    """The stores over one database."""

    def __init__(self, url: str, pool: Pool) -> None:
        self.pool = pool
        self.ledger: LedgerStore = ledger_store(url)
        self.rollups = RollupStore(connection=writer_connection(url), on_rolled=settle)
        self.money = MoneyStore(pool=pool)
        self.holds = HoldStore(pool=pool)

    async def roll(self) -> int:
        total = 0
        while rolled := await self.rollups.roll():
            total += rolled
        return total

    async def balances(self, tenant: Tenant) -> dict[Account, int]:
        """Without accounts that hold nothing."""
        balances, _ = await self.money.balances(tenant.org_id)
        return {account: amount for account, amount in balances.items() if amount}

    async def has_room(self, hold: Hold) -> bool:
        """Holds it if there is room."""
        try:
            await self.holds.reserve(hold, expires_in_s=600)
        except CodedError as error:
            if error.code is ErrorCode.RATE_LIMITED:
                return False
            raise
        return True

    async def problems(self, tenant: Tenant) -> list[str]:
        return (await self.money.check(tenant.org_id))[0]

    async def close(self) -> None:
        await self.ledger.close()
        await self.rollups.close()

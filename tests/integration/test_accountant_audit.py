"""The accountant over mTLS, as billing, operators and gateways ask it about money: one process, killed and started."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.accountant.v1 import accountant_pb2_grpc as rpc
from crosslogic.accountant.v1 import budgets_pb2 as budgets_pb
from crosslogic.accountant.v1 import budgets_pb2_grpc as budgets_rpc
from crosslogic.accountant.v1 import money_pb2 as money_pb
from crosslogic.accountant.v1 import money_pb2_grpc as money_rpc
from crosslogic_common.errors import ErrorCode, from_rpc_error
from crosslogic_common.tls import Channels
from crosslogic_dev.ports import free_port
from tests.fakes.accountant_process import accountant_environ, start_accountant
from tests.fakes.accountant_samples import sample_context, sample_record, sample_usage, sample_witness
from tests.fakes.test_ca import CertificateMaker

Usage: TypeAlias = "rpc.AccountantServiceAsyncStub"
Budgets: TypeAlias = "budgets_rpc.BudgetServiceAsyncStub"
Money: TypeAlias = "money_rpc.MoneyServiceAsyncStub"


class Accountant:
    """A process, and its callers' channels."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._ca = CertificateMaker(folder / "ca")
        self._target = f"127.0.0.1:{(port := free_port())}"
        self._environ = accountant_environ(url, self._ca.service("accountant"), port)
        self._log = folder / "accountant.log"
        self.start()

    def start(self) -> None:
        self._child = start_accountant(self._environ, self._log)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._child.send_signal(number)
        self._child.wait(20)

    @contextlib.asynccontextmanager
    async def called_by(self, name: str) -> AsyncIterator[grpc.aio.Channel]:
        channels = Channels(self._ca.service(name))
        try:
            channel = channels.service("accountant", self._target)
            await asyncio.wait_for(channel.channel_ready(), 90)
            yield channel
        finally:
            await channels.close()


@pytest.fixture(scope="module")
def process(pg_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accountant]:
    opened = Accountant(pg_url, tmp_path_factory.mktemp("accountant"))
    try:
        yield opened
    finally:
        opened.end()


@pytest.fixture
async def gateway(process: Accountant) -> AsyncIterator[grpc.aio.Channel]:
    async with process.called_by("gateway") as channel:
        yield channel


@pytest.fixture
async def billing(process: Accountant) -> AsyncIterator[grpc.aio.Channel]:
    async with process.called_by("billing") as channel:
        yield channel


@contextlib.contextmanager
def refused(code: ErrorCode) -> Iterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert from_rpc_error(caught.value).code is code


def stamp(time: datetime) -> Timestamp:
    value = Timestamp()
    value.FromDatetime(time)
    return value


async def record(usage: Usage, **changes: object) -> pb.UsageRecord:
    sent = sample_record(sample_context(**changes))
    await usage.RecordUsage(pb.RecordUsageRequest(record=sent))
    return sent


async def rolled_up(usage: Usage) -> None:
    """Waits until everything is rolled up."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    request = pb.CompareUsageRequest(from_time=stamp(hour), to_time=stamp(hour + timedelta(hours=1)))
    async with asyncio.timeout(60):
        while (found := await usage.CompareUsage(request)).rolled_up_sequence < found.last_sequence:
            await asyncio.sleep(0.02)


async def test_billing_reads_every_row_once_over_restarts_of_the_accountant(process: Accountant) -> None:
    async with process.called_by("gateway") as gateway:
        sent = [await record(rpc.AccountantServiceStub(gateway), model="billed") for _ in range(3)]
    rows: list[pb.LedgerEntry] = []

    async def read() -> None:
        async with process.called_by("billing") as channel:
            usage: Usage = rpc.AccountantServiceStub(channel)
            while True:
                after = rows[-1].sequence if rows else 0
                page = await usage.ReadRecords(pb.ReadRecordsRequest(after_sequence=after, page_size=2, settled=True))
                rows.extend(page.entries)
                if not page.entries:
                    assert after == page.last_sequence
                    return

    await read()
    process.end()
    process.start()
    async with process.called_by("gateway") as gateway:
        usage: Usage = rpc.AccountantServiceStub(gateway)
        sent.append(await record(usage, model="billed"))
        standing = await usage.CorrectRecord(
            pb.CorrectRecordRequest(
                correction_id=str(uuid4()),
                request_id=sent[0].context.request_id,
                expected_revision=0,
                usage=sample_usage(prompt=1, completion=1),
                reason="counted twice",
                author="operator",
            )
        )
        assert (standing.record.revision, standing.record.cost_picodollars) == (2, "120000")
        with refused(ErrorCode.PERMISSION_DENIED):
            await usage.ReadRecords(pb.ReadRecordsRequest())
    await read()
    assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
    billed = [row for row in rows if row.record.context.model == "billed"]
    assert [row.requests for row in billed] == [1, 1, 1, 1, -1, 1]
    assert [row.record for row in billed[:4]] == sent
    total = sum(row.requests * int(row.cost_picodollars) for row in billed)
    assert total == 3 * 6_400_000 + 120_000
    async with process.called_by("gateway") as gateway:
        usage = rpc.AccountantServiceStub(gateway)
        listed = await usage.ListUsageRecords(pb.ListUsageRecordsRequest(request_id=sent[0].context.request_id))
        assert [(each.billed, each.revision, each.sequence) for each in listed.records] == [
            (True, 2, rows[-1].sequence)
        ]
        with refused(ErrorCode.CONFLICT):
            await usage.CorrectRecord(
                pb.CorrectRecordRequest(
                    correction_id=str(uuid4()),
                    request_id=sent[0].context.request_id,
                    reason="again",
                    author="operator",
                )
            )


async def test_reconciliation_shows_each_difference_between_nodes_and_gateways(
    process: Accountant, gateway: grpc.aio.Channel
) -> None:
    usage: Usage = rpc.AccountantServiceStub(gateway)
    org = str(uuid4())
    agreed, disputed, lost = (sample_context(org_id=org, model="compared") for _ in range(3))
    for context in (agreed, disputed):
        await usage.RecordUsage(pb.RecordUsageRequest(record=sample_record(context)))
    async with process.called_by("registry") as registry:
        reporting: Usage = rpc.AccountantServiceStub(registry)
        witnesses = [
            sample_witness(agreed),
            sample_witness(disputed, sample_usage(completion=30)),
            sample_witness(lost, sample_usage(completion=5)),
        ]
        await reporting.RecordWitnesses(pb.RecordWitnessesRequest(witnesses=witnesses))
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    today = hour.replace(hour=0)
    request = pb.CompareUsageRequest(
        from_time=stamp(today - timedelta(days=1)), to_time=stamp(today + timedelta(days=2)), org_id=org
    )
    async with asyncio.timeout(60):
        while (found := await usage.CompareUsage(request)).records.requests < 3 or not found.witness_differences:
            await asyncio.sleep(0.05)
    assert found.records.completion_tokens == 20 + 20 + 5
    assert found.records == found.rollups
    assert (found.settled_from_witnesses.requests, found.settled_from_witnesses.completion_tokens) == (1, 5)
    (difference,) = found.witness_differences
    assert difference.request_id == disputed.request_id
    assert (difference.gateway_usage.completion_tokens, difference.witness_usage.completion_tokens) == (20, 30)
    assert (found.witness_differences_total, found.rollup_differences_total) == (1, 0)
    await rolled_up(usage)
    with psycopg.connect(process.url) as connection:
        connection.execute("UPDATE ledger.usage_hourly SET requests = requests + 1 WHERE org_id = %s", (org,))
    found = await usage.CompareUsage(request)
    assert {each.daily for each in found.rollup_differences} == {True, False}
    assert all(each.org_id == org for each in found.rollup_differences)
    async with process.called_by("billing") as channel:
        audit: Usage = rpc.AccountantServiceStub(channel)
        days = pb.RebuildRollupsRequest(
            from_time=stamp(today - timedelta(days=1)), to_time=stamp(today + timedelta(days=2))
        )
        assert (await audit.RebuildRollups(days)).repaired >= 1
        found = await audit.CompareUsage(request)
    assert found.rollup_differences_total == 0
    assert found.records == found.rollups
    for wrong in (
        pb.CompareUsageRequest(from_time=stamp(hour), to_time=stamp(hour)),
        pb.CompareUsageRequest(from_time=stamp(hour + timedelta(minutes=1)), to_time=stamp(hour + timedelta(hours=1))),
        pb.CompareUsageRequest(from_time=stamp(hour - timedelta(days=36)), to_time=stamp(hour)),
    ):
        with refused(ErrorCode.INVALID_ARGUMENT):
            await usage.CompareUsage(wrong)
    for year in (1, 1969, 9999):
        start = datetime(year, 1, 1, tzinfo=UTC)
        low, high = stamp(start), stamp(start + timedelta(days=1))
        far = pb.CompareUsageRequest(from_time=low, to_time=high)
        assert (await usage.CompareUsage(far)).records.requests == 0
        restriction = pb.UsageFilter(org_id=org, from_time=low, to_time=high)
        (row,) = (await usage.QueryUsage(pb.QueryUsageRequest(filter=restriction))).rows
        assert row.requests == 0


async def test_books_over_the_wire(gateway: grpc.aio.Channel, billing: grpc.aio.Channel) -> None:
    org = str(uuid4())
    books: Money = money_rpc.MoneyServiceStub(billing)
    holds: Money = money_rpc.MoneyServiceStub(gateway)

    def transfer(**changes: object) -> money_pb.PostTransferRequest:
        made = money_pb.Transfer(
            id=str(uuid4()),
            org_id=org,
            kind=money_pb.TRANSFER_KIND_TOP_UP,
            postings=[
                money_pb.Posting(account=money_pb.ACCOUNT_CASH, amount_picodollars="1000"),
                money_pb.Posting(account=money_pb.ACCOUNT_PREPAID, amount_picodollars="-1000"),
            ],
            reference="invoice 1",
        )
        for name, value in changes.items():
            setattr(made, name, value)
        return money_pb.PostTransferRequest(transfer=made)

    first = transfer()
    assert not (await books.PostTransfer(first)).duplicate
    assert (await books.PostTransfer(first)).duplicate
    unbalanced = transfer()
    unbalanced.transfer.postings[0].amount_picodollars = "999"
    for wrong in (
        unbalanced,
        transfer(kind=money_pb.TRANSFER_KIND_USAGE),
        transfer(kind=money_pb.TRANSFER_KIND_ADJUSTMENT),
        transfer(org_id="nobody"),
        transfer(reference="x" * 257),
    ):
        with refused(ErrorCode.INVALID_ARGUMENT):
            await books.PostTransfer(wrong)
    with refused(ErrorCode.PERMISSION_DENIED):
        await holds.PostTransfer(first)
    hold = money_pb.ReserveRequest(id=str(uuid4()), org_id=org, amount_picodollars=600, prepaid=True)
    assert not (await holds.Reserve(hold)).duplicate
    assert (await holds.Reserve(hold)).duplicate
    with refused(ErrorCode.RATE_LIMITED):
        await holds.Reserve(money_pb.ReserveRequest(id=str(uuid4()), org_id=org, amount_picodollars=401, prepaid=True))
    ended = await holds.ResolveHold(money_pb.ResolveHoldRequest(id=hold.id, amount_picodollars=100))
    assert (ended.state, ended.amount_picodollars, ended.duplicate) == (money_pb.HOLD_STATE_POSTED, 100, False)
    balances = await holds.GetBalances(money_pb.GetBalancesRequest(org_id=org))
    assert balances.available_picodollars == "900"
    pages = [await books.ListTransfers(money_pb.ListTransfersRequest(org_id=org, page_size=2))]
    pages.append(
        await books.ListTransfers(
            money_pb.ListTransfersRequest(org_id=org, page_size=2, page_token=pages[0].next_page_token)
        )
    )
    assert [[each.kind for each in page.transfers] for page in pages] == [
        [money_pb.TRANSFER_KIND_RESOLUTION, money_pb.TRANSFER_KIND_HOLD],
        [money_pb.TRANSFER_KIND_TOP_UP],
    ]
    checked = await books.CheckBooks(money_pb.CheckBooksRequest(org_id=org))
    assert (list(checked.problems), checked.transfers) == ([], 3)
    assert checked.debits_picodollars == checked.credits_picodollars


async def test_a_gateway_watches_budgets_and_is_told_within_a_second_of_what_is_spent(
    gateway: grpc.aio.Channel,
) -> None:
    usage: Usage = rpc.AccountantServiceStub(gateway)
    budgets: Budgets = budgets_rpc.BudgetServiceStub(gateway)
    org = str(uuid4())
    asked = budgets_pb.CreateBudgetRequest(
        budget=budgets_pb.Budget(
            org_id=org,
            scope=budgets_pb.SPEND_SCOPE_ORG,
            name="everything",
            period=budgets_pb.SPEND_PERIOD_MONTH,
            limit_picodollars=10_000_000,
            hard=True,
            owners=["cfo@example.com"],
        ),
        request_id=str(uuid4()),
    )
    made = (await budgets.CreateBudget(asked)).state
    assert (await budgets.CreateBudget(asked)).state == made
    assert list(made.budget.thresholds_percent) == [50, 80, 100]
    watch = budgets.WatchBudgets(budgets_pb.WatchBudgetsRequest(hard_only=True))
    seen: dict[str, budgets_pb.BudgetState] = {}

    async def until_spent(cost: str) -> None:
        while seen.get(made.budget.id, budgets_pb.BudgetState()).spent_picodollars != cost:
            response = await watch.read()
            assert isinstance(response, budgets_pb.WatchBudgetsResponse)
            seen.update({state.budget.id: state for state in response.states})

    async with asyncio.timeout(60):
        await until_spent("0")
        await record(usage, org_id=org)
        await until_spent("6400000")
        updated = await budgets.UpdateBudget(
            budgets_pb.UpdateBudgetRequest(id=made.budget.id, limit_picodollars=6_400_000)
        )
        assert updated.state.budget.limit_picodollars == 6_400_000
        events = (await budgets.ListBudgetEvents(budgets_pb.ListBudgetEventsRequest(org_id=org))).events
        assert [(event.threshold_percent, event.stopped) for event in events] == [(50, False), (80, True), (100, True)]
        soft = budgets_pb.CreateBudgetRequest()
        soft.CopyFrom(asked)
        soft.request_id, soft.budget.hard = str(uuid4()), False
        await budgets.CreateBudget(soft)
        await record(usage, org_id=org)
        await until_spent("12800000")
        assert soft.request_id not in seen
        await budgets.DeleteBudget(budgets_pb.DeleteBudgetRequest(id=soft.request_id))
        await budgets.DeleteBudget(budgets_pb.DeleteBudgetRequest(id=made.budget.id))
        while not seen[made.budget.id].deleted:
            response = await watch.read()
            assert isinstance(response, budgets_pb.WatchBudgetsResponse)
            seen.update({state.budget.id: state for state in response.states})
    watch.cancel()
    assert not (await budgets.ListBudgets(budgets_pb.ListBudgetsRequest(org_id=org))).states
    query = budgets_pb.SpendQuery(scope=budgets_pb.SPEND_SCOPE_ORG, id=org, period=budgets_pb.SPEND_PERIOD_DAY)
    spent = await budgets.ReadSpend(budgets_pb.ReadSpendRequest(queries=[query]))
    assert [(each.spent_picodollars, each.tokens) for each in spent.spends] == [("12800000", 240)]
    bad = budgets_pb.CreateBudgetRequest()
    for name, value in (("limit_picodollars", 0), ("name", ""), ("scope", 0), ("period", 0), ("scope_id", org)):
        bad.CopyFrom(asked)
        bad.request_id = str(uuid4())
        setattr(bad.budget, name, value)
        with refused(ErrorCode.INVALID_ARGUMENT):
            await budgets.CreateBudget(bad)

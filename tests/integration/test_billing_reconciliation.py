"""Every place that counts has counted the same, or the report says where not and why."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from crosslogic_billing.rating.domain import Terms
from crosslogic_billing.reconcile.domain import LedgerTotals, Report
from crosslogic_billing.reconcile.service import Reconciler
from crosslogic_billing.reconcile.store import PostgresReconciliations
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from tests.fakes.billing_bench import NOW, Bench, bench
from tests.fakes.stripe_server import Fault

DAY = NOW.date()
TOKENS = "crosslogic_standard_tokens"


@dataclass
class Totals:
    """The accountant, by the ledger of the bench."""

    bench: Bench
    rollup_tokens_off: int = 0
    rebuilt: int = 0
    witness_differences: int = 0

    async def compared(self, since: datetime, until: datetime) -> LedgerTotals:
        rows = [row for row in self.bench.ledger.rows if since <= row.start_time < until]
        requests = sum(row.sign for row in rows)
        tokens = sum(row.sign * (row.prompt_tokens + row.completion_tokens) for row in rows)
        cost = sum(row.sign * row.cost_picodollars for row in rows)
        return LedgerTotals(
            requests=requests,
            tokens=tokens,
            cost=cost,
            rollup_requests=requests,
            rollup_tokens=tokens + self.rollup_tokens_off,
            rollup_cost=cost,
            from_witnesses=0,
            witness_differences=self.witness_differences,
            rollup_differences=int(self.rollup_tokens_off != 0),
            open_witnesses=0,
            corrections=0,
            last_sequence=len(self.bench.ledger.rows),
            rolled_up_sequence=len(self.bench.ledger.rows),
        )

    async def rebuild(self, since: datetime, until: datetime) -> int:
        self.rollup_tokens_off, self.rebuilt = 0, self.rebuilt + 1
        return 1


@dataclass
class Audit:
    """A bench with a reconciler."""

    bench: Bench
    totals: Totals
    reconciler: Reconciler

    async def report(self) -> Report:
        return await self.reconciler.reconcile(DAY, DAY + timedelta(days=1))

    async def settled(self) -> None:
        self.bench.clock.advance(minutes=2)
        await self.bench.close()
        await self.bench.send()


@pytest.fixture
async def audit(pg_url: str) -> AsyncIterator[Audit]:
    async with bench(pg_url) as world:
        async with world.pool.connection() as connection:
            await connection.execute("ALTER TABLE reconciliations DISABLE TRIGGER kept")
            await connection.execute("DELETE FROM reconciliations")
            await connection.execute("ALTER TABLE reconciliations ENABLE TRIGGER kept")
            await connection.execute("TRUNCATE uncharged_usage")
        totals = Totals(world)
        yield Audit(
            world,
            totals,
            Reconciler(
                store=PostgresReconciliations(world.pool),
                totals=totals,
                standings=world.follower,
                sink=world.sink,
                clock=world.clock,
                new_id=Uuid7Source().next_text,
            ),
        )


def differing(report: Report) -> dict[str, str]:
    return {f"{line.what} {line.unit}": line.explanation for line in report.lines if line.left != line.right}


async def test_a_good_day_has_no_difference(audit: Audit) -> None:
    org, _ = await audit.bench.customer(Terms(free_tokens=50))
    for _ in range(5):
        audit.bench.ledger.use(org, NOW, prompt=100, completion=10)
    failed = audit.bench.ledger.use(org, NOW, prompt=100)
    audit.bench.ledger.rows[-1] = replace(failed, charged=False, cost_picodollars=0)
    await audit.settled()
    report = await audit.report()
    assert (report.unexplained, differing(report), report.missing) == (0, {}, ())
    assert {line.what for line in report.lines} >= {
        "witnesses = records",
        "records = rollups",
        "records = windows",
        "windows = month",
        "month = exported",
        "exported = outbox",
        "outbox = Stripe",
    }


async def test_what_is_not_settled_or_not_sent_yet_is_explained(audit: Audit) -> None:
    org, _ = await audit.bench.customer()
    audit.bench.ledger.use(org, NOW, prompt=100)
    audit.bench.stripe.faults.extend(Fault("503") for _ in range(2))
    await audit.settled()
    audit.bench.ledger.use(org, NOW, prompt=10)
    report = await audit.report()
    assert report.unexplained == 0
    assert differing(report)["records = windows tokens"] == "1 rows of the ledger are not settled yet"
    assert differing(report)["outbox = Stripe tokens"] == "100 wait to be sent"


async def test_an_answer_that_was_lost_is_told_from_an_event_that_was(audit: Audit) -> None:
    org, _ = await audit.bench.customer()
    audit.bench.ledger.use(org, NOW, prompt=100)
    audit.bench.stripe.faults.extend(Fault("cut", commits=True) for _ in range(2))
    await audit.settled()
    report = await audit.report()
    assert differing(report) == {}
    await audit.settled()
    audit.bench.stripe.events.clear()
    audit.bench.clock.advance(hours=2)
    report = await audit.report()
    assert report.unexplained == 2
    assert [line.what for line in report.lines if line.unexplained] == ["outbox = Stripe"] * 2


async def test_what_stripe_has_and_we_never_sent_is_not_explained_away(audit: Audit) -> None:
    org, _ = await audit.bench.customer()
    audit.bench.ledger.use(org, NOW, prompt=100)
    await audit.settled()
    audit.bench.stripe.events.append(replace(audit.bench.stripe.events[0], identifier="forged"))
    assert (await audit.report()).unexplained == 1


async def test_events_that_stripe_has_not_added_up_yet_are_no_loss(audit: Audit) -> None:
    org, _ = await audit.bench.customer()
    audit.bench.stripe.aggregation_delay_s = 600
    audit.bench.ledger.use(org, NOW, prompt=100)
    await audit.settled()
    report = await audit.report()
    assert report.unexplained == 0
    assert "so lately" in differing(report)["outbox = Stripe tokens"]
    audit.bench.clock.advance(hours=1)
    assert differing(await audit.report()) == {}


async def test_wrong_rollups_are_made_anew_and_told(audit: Audit) -> None:
    org, _ = await audit.bench.customer()
    audit.bench.ledger.use(org, NOW, prompt=100)
    await audit.settled()
    audit.totals.rollup_tokens_off = 7
    report = await audit.report()
    assert (report.unexplained, audit.totals.rebuilt) == (0, 1)
    assert "made anew" in differing(report)["rollups repaired sums"]


async def test_a_node_that_counts_otherwise_is_told(audit: Audit) -> None:
    audit.totals.witness_differences = 3
    report = await audit.report()
    assert report.unexplained == 0
    assert "the gateway's count stands" in differing(report)["witnesses = records requests"]


@pytest.mark.parametrize("was_sent", [False, True])
async def test_an_outbox_that_was_lost_is_made_again_and_nothing_counts_twice(audit: Audit, was_sent: bool) -> None:
    org, customer = await audit.bench.customer()
    audit.bench.ledger.use(org, NOW, prompt=100)
    audit.bench.stripe.down = not was_sent
    await audit.settled()
    async with audit.bench.pool.connection() as connection:
        await connection.execute("DELETE FROM month_exports WHERE unit = 'tokens'")
        await connection.execute("DELETE FROM meter_events WHERE unit = 'tokens'")
    audit.bench.stripe.down = False
    assert (await audit.report()).unexplained == 1
    # The same aggregate has the same identifier: Stripe knows whether it has it.
    await audit.settled()
    await audit.settled()
    assert audit.bench.stripe.total(TOKENS, customer) == 100
    assert (await audit.report()).unexplained == 0


async def test_who_is_no_customer_or_pays_in_advance_is_explained(audit: Audit) -> None:
    stranger, _ = await audit.bench.customer()
    await audit.bench.accounts.unlink(stranger)
    prepaid, _ = await audit.bench.customer(Terms(free_tokens=0, collection="prepaid"))
    for org in (stranger, prepaid):
        audit.bench.ledger.use(org, NOW, prompt=100)
    await audit.settled()
    report = await audit.report()
    assert report.unexplained == 0
    told = {(line.org_id, line.unit): line.explanation for line in report.lines if line.left != line.right}
    assert told == {
        (stranger, "tokens"): "it is no customer of the payment provider",
        (stranger, "picodollars"): "it is no customer of the payment provider",
        (prepaid, "picodollars"): "prepaid: charges are collected in the money ledger",
    }


async def test_stripe_that_cannot_be_asked_is_said_to_be_missing(audit: Audit) -> None:
    org, _ = await audit.bench.customer()
    audit.bench.ledger.use(org, NOW, prompt=100)
    await audit.settled()
    audit.bench.stripe.down = True
    report = await audit.report()
    assert report.unexplained == 0
    assert len(report.missing) == 2
    assert all("503" in text for text in report.missing)


async def test_a_report_is_made_each_morning_and_once(audit: Audit) -> None:
    audit.bench.clock.time = datetime(2026, 11, 22, 2, 59, tzinfo=UTC)
    assert await audit.reconciler.daily() is None
    audit.bench.clock.advance(minutes=2)
    made = await audit.reconciler.daily()
    assert made is not None
    assert (made.from_day, made.to_day) == (date(2026, 11, 21), date(2026, 11, 22))
    assert await audit.reconciler.daily() is None
    assert await audit.reconciler.listed("", 10) == [made]


async def test_a_report_is_signed_once_and_never_rewritten(audit: Audit) -> None:
    report = await audit.report()
    signed = await asyncio.gather(
        *(audit.reconciler.sign(report.id, signed_by=name, note="read") for name in ("ada", "bob")),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in signed) == ["CodedError", "Report"]
    (kept,) = await audit.reconciler.listed("", 10)
    assert await audit.reconciler.sign(report.id, signed_by=kept.signed_by, note="read") == kept
    assert kept.lines == report.lines
    with pytest.raises(CodedError) as refused:
        await audit.reconciler.sign(str(uuid.uuid4()), signed_by="ada", note="")
    assert refused.value.code == ErrorCode.NOT_FOUND
    for statement in ("UPDATE reconciliations SET unexplained = 0, signed_at = now()", "DELETE FROM reconciliations"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            await audit.bench.rows(statement)


@pytest.mark.parametrize(("signed_by", "note"), [("", ""), ("a\nb", ""), ("x" * 201, ""), ("ada", "n" * 2_001)])
async def test_a_signature_that_says_nothing_is_refused(audit: Audit, signed_by: str, note: str) -> None:
    report = await audit.report()
    with pytest.raises(CodedError) as refused:
        await audit.reconciler.sign(report.id, signed_by=signed_by, note=note)
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("days", [0, -1, 36])
async def test_a_period_that_is_none_or_too_long_is_refused(audit: Audit, days: int) -> None:
    with pytest.raises(CodedError) as refused:
        await audit.reconciler.reconcile(DAY, DAY + timedelta(days=days))
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT


async def test_an_organisation_that_identity_has_on_another_plan_is_told_and_not_explained_away(audit: Audit) -> None:
    org, _ = await audit.bench.customer()
    audit.bench.identity.plan("default", NOW)
    audit.bench.identity.org(org, NOW)
    assert (await audit.reconciler.reconcile(DAY, DAY + timedelta(days=1))).unexplained == 0
    # Somebody changed the table behind our back: no reading brings that to light.
    async with audit.bench.pool.connection() as connection:
        await connection.execute("UPDATE org_standings SET reserved_units = '{\"llama-3-8b\": 5}'")
    report = await audit.reconciler.reconcile(DAY, DAY + timedelta(days=1))
    told = [line for line in report.lines if line.what == "identity = terms" and line.unexplained]
    assert [(line.org_id, line.left, line.right) for line in told] == [("", 1, 0), (org, 1, 0)]


async def test_identity_that_is_away_is_said_to_be_missing(audit: Audit) -> None:
    audit.bench.identity.away = True
    report = await audit.reconciler.reconcile(DAY, DAY + timedelta(days=1))
    assert any("identity" in text for text in report.missing)
    assert report.unexplained == 0

"""Billing's path of money on a bench: a ledger in memory, real PostgreSQL, the tests' Stripe, one clock for all."""

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import Any

from prometheus_client import CollectorRegistry

from crosslogic_billing.accounts.store import PostgresAccounts
from crosslogic_billing.export.closing import Closer
from crosslogic_billing.export.credit_store import PostgresCredits
from crosslogic_billing.export.crediting import CreditGiver
from crosslogic_billing.export.outbox_store import PostgresOutbox
from crosslogic_billing.export.sender import Sender
from crosslogic_billing.export.stripe_sink import Buyer, StripeSink, Tax, stripe_client
from crosslogic_billing.metrics import BillingMetrics
from crosslogic_billing.rating.domain import Terms
from crosslogic_billing.standings.follower import Follower
from crosslogic_billing.standings.learning import Learner
from crosslogic_billing.standings.store import PostgresStandings
from crosslogic_billing.usage.settler import Settler
from crosslogic_billing.usage.store import PostgresUsage
from crosslogic_common.postgres import Pool, migrate, open_pool
from crosslogic_common.settings import Secret
from tests.fakes.billing_identity import FakeIdentity
from tests.fakes.billing_ledger import FakeLedger
from tests.fakes.billing_world import ManualClock
from tests.fakes.stripe_server import KEY, FakeStripe

NOW = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)
ALWAYS = date(2020, 1, 1)
FREE_OF_FREE = Terms(free_tokens=0)


@dataclass
class Bench:
    """All the parts."""

    pool: Pool
    clock: ManualClock
    ledger: FakeLedger
    stripe: FakeStripe
    sink: StripeSink
    accounts: PostgresAccounts
    outbox: PostgresOutbox
    settler: Settler
    closer: Closer
    sender: Sender
    giver: CreditGiver
    identity: FakeIdentity
    follower: Follower

    async def customer(self, terms: Terms = FREE_OF_FREE) -> tuple[str, str]:
        """A new organisation and its customer. Mode, overage and units are identity's word, and always were."""
        org_id = str(uuid.uuid4())
        await self.accounts.set_terms(org_id, ALWAYS, terms)
        if terms.mode == "reserved":
            always = datetime(ALWAYS.year, ALWAYS.month, ALWAYS.day, tzinfo=UTC)
            self.identity.plan(f"plan-of-{org_id}", always, terms.mode, terms.overage)
            self.identity.org(org_id, always, f"plan-of-{org_id}", terms.reserved_units)
            await self.follower.read()
        customer_id = await self.sink.make_customer(Buyer(org_id=org_id, name="Acme"))
        await self.accounts.link(org_id, customer_id=customer_id)
        return org_id, customer_id

    async def close(self) -> None:
        """Settles the ledger and closes every window that is due."""
        await self.settler.settle_all()
        await self.closer.close_due()

    async def send(self) -> None:
        """Sends until nothing is due any more."""
        while await self.sender.send_due():
            pass

    async def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as connection:
            return await (await connection.execute(query.encode(), values)).fetchall()

    async def outbox_total(self, org_id: str, unit: str) -> int:
        found = await self.rows(
            "SELECT coalesce(sum(value), 0) FROM meter_events WHERE org_id = %s AND unit = %s", org_id, unit
        )
        return int(found[0][0])

    async def states(self) -> dict[str, int]:
        return dict(await self.rows("SELECT state, count(*) FROM meter_events GROUP BY state"))

    def sender_like(self, **changes: Any) -> Sender:
        """Another replica's sender."""
        parts: dict[str, Any] = {
            "outbox": self.outbox,
            "sink": self.sink,
            "clock": self.clock,
            "metrics": BillingMetrics(CollectorRegistry()),
            "lanes_at_once": 8,
            "draw": lambda: 1.0,
        }
        return Sender(**{**parts, **changes})


@contextlib.asynccontextmanager
async def bench(pg_url: str, *, exporting: bool = True, timeout_s: float = 15.0) -> AsyncIterator[Bench]:
    """Everything, on a database of its own; the clock stands at NOW."""
    await migrate(pg_url, schema="billing", migrations=files("crosslogic_billing.migrations"))
    clock = ManualClock(NOW)
    fake = FakeStripe(now=lambda: clock.now().timestamp())
    async with (
        open_pool(pg_url, schema="billing", max_size=8) as pool,
        fake.serving(),
        stripe_client(Secret(KEY), base_address=fake.base, timeout_s=timeout_s) as client,
    ):
        await _emptied(pool)
        metrics = BillingMetrics(CollectorRegistry())
        ledger = FakeLedger()
        sink = StripeSink(client, tax=Tax())
        outbox = PostgresOutbox(pool, new_id=lambda: str(uuid.uuid4()))
        identity = FakeIdentity()
        yield Bench(
            pool=pool,
            clock=clock,
            ledger=ledger,
            stripe=fake,
            sink=sink,
            accounts=PostgresAccounts(pool),
            outbox=outbox,
            settler=Settler(ledger=ledger, store=PostgresUsage(pool), metrics=metrics, window_s=60),
            closer=Closer(pool=pool, clock=clock, delay_s=30.0, exporting=exporting),
            sender=Sender(outbox=outbox, sink=sink, clock=clock, metrics=metrics, lanes_at_once=8, draw=lambda: 1.0),
            giver=CreditGiver(store=PostgresCredits(pool), sink=sink, clock=clock, draw=lambda: 1.0),
            identity=identity,
            follower=Follower(
                identity=identity,
                learner=Learner(pool),
                store=PostgresStandings(pool),
                clock=clock,
                metrics=metrics,
            ),
        )


async def _emptied(pool: Pool) -> None:
    """Tests of a module share its database."""
    async with pool.connection() as connection:
        await connection.execute(
            "TRUNCATE accounts, account_terms, window_usage, org_months, month_usage, month_exports, meter_events, "
            "meter_lanes, meters, transfers, machine_costs, credits, org_standings, plan_standings, plan_terms"
        )
        await connection.execute("UPDATE ledger_cursor SET sequence = 0")
        await connection.execute("UPDATE machine_cursor SET read_at = NULL")
        await connection.execute("UPDATE standing_cursor SET read_at = NULL")

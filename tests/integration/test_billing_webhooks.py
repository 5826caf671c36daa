"""What Stripe tells us: signed, late, twice, in any order, and forged."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from crosslogic_billing.account_events.store import PostgresAccountEvents
from crosslogic_billing.accounts.dunning import REASON, Dunning
from crosslogic_billing.metrics import BillingMetrics
from crosslogic_billing.webhooks.handler import WebhookHandler
from crosslogic_billing.webhooks.http import MAX_BODY_BYTES, PATH, make_app
from crosslogic_billing.webhooks.store import PostgresWebhooks
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.settings import Secret
from tests.fakes.billing_bench import NOW, Bench, bench
from tests.fakes.stripe_server import WEBHOOK_SECRET

TOKENS = "crosslogic_standard_tokens"


@dataclass
class Tenants:
    """Identity, as far as dunning sees it."""

    reasons: dict[str, str] = field(default_factory=dict)
    away: bool = False

    async def suspend(self, org_id: str, reason: str) -> None:
        if self.away:
            raise CodedError(ErrorCode.UNAVAILABLE)
        self.reasons[org_id] = reason

    async def let_in(self, org_id: str, reason: str) -> bool:
        if self.reasons.get(org_id) != reason:
            return False
        del self.reasons[org_id]
        return True


@dataclass
class Hooked:
    """A bench that Stripe can reach."""

    bench: Bench
    url: str
    http: aiohttp.ClientSession
    handler: WebhookHandler
    webhooks: PostgresWebhooks
    tenants: Tenants
    dunning: Dunning

    async def tell(self, payload: bytes, **signing: Any) -> int:
        headers = self.bench.stripe.signed(payload, **signing)
        async with self.http.post(self.url, data=payload, headers=headers) as answer:
            return answer.status

    async def failing_invoice(self, customer: str) -> dict[str, Any]:
        invoice = self.bench.stripe.invoice(customer, status="open")
        assert await self.tell(self.bench.stripe.snapshot("invoice.payment_failed", invoice)) == 200
        return invoice


@pytest.fixture
async def hooked(pg_url: str) -> AsyncIterator[Hooked]:
    async with bench(pg_url) as world, aiohttp.ClientSession() as http:
        async with world.pool.connection() as connection:
            await connection.execute("TRUNCATE webhooks, invoices, account_events")
        metrics = BillingMetrics(CollectorRegistry())
        webhooks = PostgresWebhooks(world.pool)
        handler = WebhookHandler(
            webhooks=webhooks,
            accounts=world.accounts,
            outbox=world.outbox,
            stripe=world.sink,
            clock=world.clock,
            metrics=metrics,
        )
        server = TestServer(make_app(secret=Secret(WEBHOOK_SECRET), take=handler.take, metrics=metrics))
        await server.start_server()
        tenants = Tenants()
        try:
            yield Hooked(
                world,
                str(server.make_url(PATH)),
                http,
                handler,
                webhooks,
                tenants,
                Dunning(accounts=world.accounts, tenants=tenants, clock=world.clock, grace_s=7 * 86_400),
            )
        finally:
            await server.close()


async def test_an_unpaid_invoice_suspends_after_the_grace_time_and_a_paid_one_lets_in_again(hooked: Hooked) -> None:
    org, customer = await hooked.bench.customer()
    invoice = await hooked.failing_invoice(customer)
    hooked.bench.clock.advance(days=6)
    await hooked.dunning.look()
    assert hooked.tenants.reasons == {}
    hooked.bench.clock.advance(days=2)
    await hooked.dunning.look()
    await hooked.dunning.look()
    assert hooked.tenants.reasons == {org: REASON}
    invoice["status"] = "paid"
    assert await hooked.tell(hooked.bench.stripe.snapshot("invoice.paid", invoice)) == 200
    await hooked.dunning.look()
    assert hooked.tenants.reasons == {}
    (known,) = await hooked.webhooks.invoices(org, 10)
    assert (known.id, known.status) == (invoice["id"], "paid")


async def test_who_tells_people_learns_of_each_failed_payment_and_suspension_once(hooked: Hooked) -> None:
    events = PostgresAccountEvents(hooked.bench.pool)
    org, customer = await hooked.bench.customer()
    invoice = await hooked.failing_invoice(customer)
    assert await hooked.tell(hooked.bench.stripe.snapshot("invoice.payment_failed", invoice)) == 200
    hooked.bench.clock.advance(days=8)
    await hooked.dunning.look()
    await hooked.dunning.look()
    invoice["status"] = "paid"
    assert await hooked.tell(hooked.bench.stripe.snapshot("invoice.paid", invoice)) == 200
    await hooked.dunning.look()
    told = [(event.kind, event.subject) for event in await events.after(0, 10) if event.org_id == org]
    assert told == [("payment_failed", invoice["id"]), ("org_suspended", ""), ("org_resumed", "")]


async def test_whom_an_operator_suspended_for_something_else_stays_suspended(hooked: Hooked) -> None:
    org, customer = await hooked.bench.customer()
    invoice = await hooked.failing_invoice(customer)
    hooked.bench.clock.advance(days=8)
    await hooked.dunning.look()
    hooked.tenants.reasons[org] = "abuse"
    invoice["status"] = "paid"
    await hooked.tell(hooked.bench.stripe.snapshot("invoice.paid", invoice))
    await hooked.dunning.look()
    assert hooked.tenants.reasons == {org: "abuse"}


async def test_two_unpaid_invoices_are_both_to_be_paid(hooked: Hooked) -> None:
    org, customer = await hooked.bench.customer()
    first = await hooked.failing_invoice(customer)
    await hooked.failing_invoice(customer)
    first["status"] = "paid"
    await hooked.tell(hooked.bench.stripe.snapshot("invoice.paid", first))
    assert (await hooked.bench.accounts.account(org)).failing_since is not None


async def test_an_old_failure_that_comes_after_the_payment_changes_nothing(hooked: Hooked) -> None:
    org, customer = await hooked.bench.customer()
    invoice = hooked.bench.stripe.invoice(customer, status="open")
    failed = hooked.bench.stripe.snapshot("invoice.payment_failed", invoice)
    invoice["status"] = "paid"
    assert await hooked.tell(hooked.bench.stripe.snapshot("invoice.paid", invoice)) == 200
    assert await hooked.tell(failed) == 200
    assert (await hooked.bench.accounts.account(org)).failing_since is None


async def test_identity_that_is_away_is_asked_again(hooked: Hooked) -> None:
    org, customer = await hooked.bench.customer()
    await hooked.failing_invoice(customer)
    hooked.bench.clock.advance(days=8)
    hooked.tenants.away = True
    await hooked.dunning.look()
    hooked.tenants.away = False
    await hooked.dunning.look()
    assert hooked.tenants.reasons == {org: REASON}


async def test_an_event_that_could_not_be_handled_is_not_lost(hooked: Hooked) -> None:
    org, customer = await hooked.bench.customer()
    invoice = hooked.bench.stripe.invoice(customer, status="open")
    payload = hooked.bench.stripe.snapshot("invoice.payment_failed", invoice)
    hooked.bench.stripe.down = True
    assert await hooked.tell(payload) == 503
    hooked.bench.stripe.down = False
    hooked.bench.clock.advance(minutes=5)
    await hooked.handler.look()
    assert (await hooked.bench.accounts.account(org)).failing_since is not None
    assert await hooked.tell(payload) == 200


async def test_a_changed_subscription_and_a_deleted_customer_are_looked_up(hooked: Hooked) -> None:
    org, customer = await hooked.bench.customer()
    stripe = hooked.bench.stripe
    subscription = stripe.put("subscription", "sub", status="past_due", customer=customer, metadata={})
    stale = {**subscription, "status": "active"}
    assert await hooked.tell(stripe.snapshot("customer.subscription.updated", stale)) == 200
    assert (await hooked.bench.accounts.account(org)).subscription_status == "past_due"
    # Somebody forgot to delete it: the event alone is not believed.
    assert await hooked.tell(stripe.snapshot("customer.deleted", {"id": customer, "object": "customer"})) == 200
    assert (await hooked.bench.accounts.account(org)).customer_id == customer
    stripe.objects[customer]["deleted"] = True
    assert await hooked.tell(stripe.snapshot("customer.deleted", {"id": customer, "object": "customer"})) == 200
    account = await hooked.bench.accounts.account(org)
    assert (account.customer_id, account.subscription_status) == ("", "customer_deleted")


# Experiment 12.


async def test_a_thin_error_report_is_handled_once_however_often_and_in_which_order_it_comes(hooked: Hooked) -> None:
    world = hooked.bench
    org, customer = await world.customer()
    world.ledger.use(org, NOW, prompt=100)
    # Stripe takes events of a customer that was deleted meanwhile, and tells of it later.
    world.stripe.objects[customer]["deleted"] = True
    world.clock.advance(minutes=2)
    await world.close()
    await world.send()
    assert await world.states() == {"delivered": 2}
    assert world.stripe.events == []
    (event,) = [e for e in await world.outbox.listed(None, org, 0, 10) if e.event_name == TOKENS]
    report = world.stripe.error_report("meter_event_customer_not_found", f"{event.identifier}.1", "another one")
    assert [await hooked.tell(report) for _ in range(3)] == [200, 200, 200]
    (dead,) = await world.outbox.listed("dead", org, 0, 10)
    assert dead.identifier == event.identifier
    assert "meter_event_customer_not_found" in dead.last_error
    # Once mended it is sent again, and a report that comes late does not bury it a second time.
    world.stripe.objects[customer]["deleted"] = False
    world.clock.advance(hours=25)
    await world.outbox.replay(dead.id, world.clock.now())
    await world.send()
    assert world.stripe.total(TOKENS, customer) == 100
    assert await hooked.tell(report) == 200
    assert await world.states() == {"delivered": 2}


@pytest.mark.parametrize(
    ("signing", "status"),
    [({}, 200), ({"age_s": 200}, 200), ({"age_s": 301}, 400), ({"secret": "whsec_forged"}, 400)],
)
async def test_a_forged_or_an_old_webhook_is_refused(hooked: Hooked, signing: dict[str, Any], status: int) -> None:
    _, customer = await hooked.bench.customer()
    invoice = hooked.bench.stripe.invoice(customer, status="open")
    assert await hooked.tell(hooked.bench.stripe.snapshot("invoice.finalized", invoice), **signing) == status
    kept = await hooked.bench.rows("SELECT count(*) FROM webhooks")
    assert kept == [(int(status == 200),)]


@pytest.mark.parametrize("header", ["", "t=abc,v1=00", "t=1,v1=", "v1=00", "nonsense", "t=1," * 1_000])
async def test_a_signature_that_is_none_is_refused(hooked: Hooked, header: str) -> None:
    async with hooked.http.post(hooked.url, data=b"{}", headers={"Stripe-Signature": header}) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"nonsense", b'{"id": 1, "type": "x"}', b'{"id": "", "type": "x"}', b'{"type": "x"}'],
)
async def test_a_signed_body_that_is_no_event_is_refused(hooked: Hooked, payload: bytes) -> None:
    assert await hooked.tell(payload) == 400


async def test_events_of_no_concern_are_taken_and_forgotten(hooked: Hooked) -> None:
    stripe = hooked.bench.stripe
    stranger = stripe.put("customer", "cus", metadata={})
    for type_, subject in (
        ("charge.succeeded", {"id": "ch_1", "object": "charge"}),
        ("invoice.paid", stripe.invoice(stranger["id"], status="paid")),
        ("invoice.deleted", {"id": "in_gone", "object": "invoice"}),
        ("customer.subscription.deleted", {"id": "sub_gone", "object": "subscription"}),
        ("customer.deleted", {"id": "cus_gone", "object": "customer"}),
    ):
        assert await hooked.tell(stripe.snapshot(type_, subject)) == 200
    thin = {"id": "evt_gone", "type": "v1.billing.meter.no_meter_found", "object": "v2.core.event"}
    assert await hooked.tell(json.dumps(thin).encode()) == 200
    hooked.bench.clock.advance(days=31)
    await hooked.handler.look()
    assert await hooked.bench.rows("SELECT count(*) FROM webhooks") == [(0,)]


async def test_a_body_that_is_too_large_or_never_comes_holds_nobody_up(hooked: Hooked) -> None:
    async with hooked.http.post(hooked.url, data=b"x" * (MAX_BODY_BYTES + 1)) as answer:
        assert answer.status == 413
    async with hooked.http.get(hooked.url) as answer:
        assert answer.status == 405
    async with hooked.http.post(hooked.url + "/else", data=b"{}") as answer:
        assert answer.status == 404


async def test_the_same_event_twice_at_once_is_handled_to_one_end(hooked: Hooked) -> None:
    org, customer = await hooked.bench.customer()
    invoice = hooked.bench.stripe.invoice(customer, status="open")
    payload = hooked.bench.stripe.snapshot("invoice.payment_failed", invoice)
    assert await asyncio.gather(*(hooked.tell(payload) for _ in range(5))) == [200] * 5
    account = await hooked.bench.accounts.account(org)
    assert account.failing_since == NOW.replace(microsecond=0)
    assert await hooked.bench.accounts.overdue(NOW + timedelta(days=1), 10) == [account]

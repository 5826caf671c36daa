"""The tests' Stripe speaks as the installed SDK's types say, and keeps the rules that Stripe documents."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import stripe
from stripe import billing as resources
from stripe.params import billing as shapes

from crosslogic_billing.export.stripe_sink import Buyer, StripeSink, Tax, stripe_client
from crosslogic_common.settings import Secret
from tests.fakes.stripe_server import DAY_S, KEY, FakeStripe, Fault
from tests.fakes.stripe_shapes import ShapeError, check, decoded, response_problems

NOW = 1_795_262_400.0


@pytest.fixture
async def server() -> AsyncIterator[FakeStripe]:
    fake = FakeStripe()
    fake.now = lambda: NOW
    async with fake.serving():
        yield fake


@pytest.fixture
async def client(server: FakeStripe) -> AsyncIterator[stripe.StripeClient]:
    async with stripe_client(Secret(KEY), base_address=server.base, timeout_s=5) as made:
        yield made


async def meter_and_customer(client: stripe.StripeClient) -> str:
    sink = StripeSink(client, tax=Tax())
    await sink.prepare(customer_id="", event_name="m", unit="tokens", subscription_id="")
    return await sink.make_customer(Buyer(org_id="o", name="Acme", country="IN", tax_id_type="in_gst", tax_id="12ABC"))


def event(customer: str, **changes: Any) -> Any:
    payload = {"stripe_customer_id": customer, "value": "5"}
    return {"event_name": "m", "identifier": "i", "timestamp": int(NOW), "payload": payload, **changes}


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ("event_name=m", "payload"),
        ("payload[value]=1", "event_name"),
        ("event_name=m&payload[value]=1&colour=red", "colour"),
        ("event_name=m&payload[value]=1&timestamp=soon", "timestamp"),
        ("event_name=m&payload=1", "payload"),
        ("event_name[a]=m&payload[value]=1", "event_name"),
    ],
)
def test_a_request_that_the_sdks_types_do_not_allow_is_refused(form: str, param: str) -> None:
    with pytest.raises(ShapeError) as refused:
        check(decoded(form), shapes.MeterEventCreateParams)
    assert refused.value.param == param


async def test_answers_are_what_the_sdks_classes_know(server: FakeStripe, client: stripe.StripeClient) -> None:
    customer = await meter_and_customer(client)
    taken = await client.v1.billing.meter_events.create_async(event(customer))
    (meter,) = (await client.v1.billing.meters.list_async({})).data
    since, until = int(NOW) // 3600 * 3600, int(NOW) // 3600 * 3600 + 3600
    window: Any = {"customer": customer, "start_time": since, "end_time": until, "value_grouping_window": "hour"}
    (summary,) = (await client.v1.billing.meters.event_summaries.list_async(meter.id, window)).data
    assert (type(taken), type(meter), type(summary)) == (
        resources.MeterEvent,
        resources.Meter,
        resources.MeterEventSummary,
    )
    await client.v1.customers.balance_transactions.create_async(customer, {"amount": -7, "currency": "usd"})
    (balance,) = (await client.v1.customers.balance_transactions.list_async(customer)).data
    assert (type(balance), balance.amount, balance.ending_balance) == (stripe.CustomerBalanceTransaction, -7, -7)
    for body, resource in (
        (balance.to_dict(), stripe.CustomerBalanceTransaction),
        (taken.to_dict(), resources.MeterEvent),
        (meter.to_dict(), resources.Meter),
        (summary.to_dict(), resources.MeterEventSummary),
    ):
        assert response_problems(body, resource) == []
    assert summary.aggregated_value == 5.0


async def test_nothing_of_this_machine_is_told_or_left_behind(
    server: FakeStripe, client: stripe.StripeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    await meter_and_customer(client)
    await client.v1.billing.meters.list_async({})
    assert list(tmp_path.iterdir()) == []
    assert not any("platform" in agent or "telemetry" in agent for agent in server.agents)


async def test_a_repeated_identifier_is_refused_for_a_day_and_counted_again_after_it(
    server: FakeStripe, client: stripe.StripeClient
) -> None:
    customer = await meter_and_customer(client)
    await client.v1.billing.meter_events.create_async(event(customer))
    with pytest.raises(stripe.InvalidRequestError, match="already exists with identifier i") as refused:
        await client.v1.billing.meter_events.create_async(event(customer))
    assert (refused.value.http_status, refused.value.code) == (400, "duplicate_meter_event")
    server.now = lambda: NOW + DAY_S
    await client.v1.billing.meter_events.create_async(event(customer))
    assert server.total("m") == 10


@pytest.mark.parametrize(
    ("offset_s", "taken"), [(-35 * DAY_S, True), (-35 * DAY_S - 1, False), (300, True), (301, False)]
)
async def test_times_are_taken_from_35_days_back_to_5_minutes_ahead(
    client: stripe.StripeClient, offset_s: int, taken: bool
) -> None:
    customer = await meter_and_customer(client)
    sent = client.v1.billing.meter_events.create_async(event(customer, timestamp=int(NOW) + offset_s))
    if taken:
        await sent
    else:
        with pytest.raises(stripe.InvalidRequestError):
            await sent


async def test_a_key_replays_its_first_answer_also_when_that_was_a_500(
    server: FakeStripe, client: stripe.StripeClient
) -> None:
    customer = await meter_and_customer(client)
    server.faults.append(Fault("saved_500"))
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            await client.v1.billing.meter_events.create_async(event(customer), {"idempotency_key": "k"})
    assert server.events == []
    await client.v1.billing.meter_events.create_async(event(customer), {"idempotency_key": "k2"})
    await client.v1.billing.meter_events.create_async(event(customer), {"idempotency_key": "k2"})
    assert server.total("m") == 5


async def test_a_customer_and_meter_take_one_call_at_a_time(server: FakeStripe, client: stripe.StripeClient) -> None:
    customer = await meter_and_customer(client)
    server.call_time_s = 0.2
    answers = await asyncio.gather(
        *(client.v1.billing.meter_events.create_async(event(customer, identifier=f"i{n}")) for n in range(2)),
        return_exceptions=True,
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["MeterEvent", "RateLimitError"]
    assert server.overlaps == 1


async def test_what_was_taken_is_summed_up_later(server: FakeStripe, client: stripe.StripeClient) -> None:
    customer = await meter_and_customer(client)
    server.aggregation_delay_s = 60
    await client.v1.billing.meter_events.create_async(event(customer))
    meter = next(one["id"] for one in server.objects.values() if one["object"] == "billing.meter")
    window: Any = {"customer": customer, "start_time": int(NOW) // 60 * 60, "end_time": int(NOW) // 60 * 60 + 60}
    assert (await client.v1.billing.meters.event_summaries.list_async(meter, window)).data == []
    server.now = lambda: NOW + 61
    (summary,) = (await client.v1.billing.meters.event_summaries.list_async(meter, window)).data
    assert summary.aggregated_value == 5.0


async def test_a_subscription_charges_a_pico_dollar_for_a_pico_dollar(
    server: FakeStripe, client: stripe.StripeClient
) -> None:
    sink = StripeSink(client, tax=Tax(automatic=True, code="txcd_10103001"))
    customer = await sink.make_customer(Buyer(org_id="o", name="Acme"))
    name = "crosslogic_llama_picodollars"
    await sink.prepare(customer_id=customer, event_name=name, unit="picodollars", subscription_id="")
    made = await sink.make_subscription(org_id="o", customer_id=customer)
    assert await sink.make_subscription(org_id="o", customer_id=customer) == made
    other = "crosslogic_gemma_picodollars"
    for _ in range(2):
        await sink.prepare(customer_id=customer, event_name=other, unit="picodollars", subscription_id=made.id)
    prices = [one["price"] for one in server.objects.values() if one["object"] == "subscription_item"]
    assert [price["unit_amount_decimal"] for price in prices] == ["0.0000000001"] * 2
    assert {price["recurring"]["usage_type"] for price in prices} == {"metered"}
    assert await sink.find_customer("o") == customer
    assert server.objects[made.id]["automatic_tax"] == {"enabled": "true"}

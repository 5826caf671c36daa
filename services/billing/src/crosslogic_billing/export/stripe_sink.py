"""Stripe, through its SDK. The only module that sends it anything."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import stripe

from crosslogic_billing.export import policy, stripe_errors
from crosslogic_billing.export.domain import Credit, Delivered, MeterEvent, Outcome, Unit
from crosslogic_common.settings import Secret

API = "https://api.stripe.com"
_CUSTOMER_KEY = "stripe_customer_id"
_VALUE_KEY = "value"
_CREDIT_KEY = "crosslogic_credit"
# Text: the SDK would write the Decimal of it as 1E-10, and Stripe takes plain decimals.
_CENTS_A_PICODOLLAR = "0.0000000001"
_MAX_KNOWN = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """Who an organisation is to Stripe, with what Stripe Tax needs to know where it is."""

    org_id: str
    name: str
    email: str = ""
    country: str = ""
    """ISO 3166, two letters."""
    state: str = ""
    city: str = ""
    line1: str = ""
    postal_code: str = ""
    tax_id_type: str = ""
    """Stripe's word, for example `in_gst`."""
    tax_id: str = ""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as Stripe has it now."""

    id: str
    status: str
    customer_id: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice as Stripe has it now."""

    id: str
    customer_id: str
    number: str
    status: str
    currency: str
    total_cents: int
    paid_cents: int
    created_at: datetime
    period_start: datetime
    period_end: datetime
    url: str


@dataclass(frozen=True, slots=True)
class Tax:
    """What is left to Stripe Tax."""

    automatic: bool = False
    code: str = ""
    """Of the products, for example `txcd_10103001`. Empty: the account's default."""


@contextlib.asynccontextmanager
async def stripe_client(key: Secret, *, base_address: str, timeout_s: float) -> AsyncIterator[stripe.StripeClient]:
    """A client of one key. It never retries: when and how is the outbox's to say.

    `base_address` is where the API is; empty: Stripe's own.
    """
    base = base_address or API
    # Otherwise the SDK leaves an id in its user's home and tells Stripe about this machine. There is no other switch.
    stripe.enable_telemetry = False
    # A session of our own: the SDK's would be made for Stripe's certificates, also where the test server has none.
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=100)) as session:
        http = stripe.AIOHTTPClient(timeout=None, session=session)
        yield stripe.StripeClient(
            key.reveal(),
            base_addresses={"api": base, "meter_events": base, "files": base, "connect": base},
            max_network_retries=0,
            http_client=http,
        )


class StripeSink:
    """Implements ports.BillingSink."""

    def __init__(self, client: stripe.StripeClient, *, tax: Tax) -> None:
        self._client = client
        self._tax = tax
        self._meters: dict[str, str] = {}
        # Customer and price, for which the subscription is known to have the price.
        self._subscribed: set[tuple[str, str]] = set()

    async def send(self, event: MeterEvent) -> Outcome:
        """See ports.BillingSink."""
        try:
            await self._client.v1.billing.meter_events.create_async(
                {
                    "event_name": event.event_name,
                    "identifier": event.identifier,
                    "timestamp": int(event.window_start.timestamp()),
                    "payload": {_CUSTOMER_KEY: event.customer_id, _VALUE_KEY: str(event.value)},
                },
                {"idempotency_key": policy.idempotency_key(event)},
            )
        except stripe_errors.FAILURES as error:
            return stripe_errors.outcome(error)
        return Delivered("accepted")

    async def summed(
        self, *, customer_id: str, event_name: str, since: datetime, until: datetime
    ) -> dict[datetime, float]:
        """See ports.BillingSink."""
        sums: dict[datetime, float] = {}
        with stripe_errors.told():
            meter_id = await self._meter(event_name)
            if not meter_id:
                return sums
            page = await self._client.v1.billing.meters.event_summaries.list_async(
                meter_id,
                {
                    "customer": customer_id,
                    "start_time": int(since.timestamp()),
                    "end_time": int(until.timestamp()),
                    "value_grouping_window": "hour",
                    "limit": 100,
                },
            )
            async for summary in page.auto_paging_iter():
                hour = datetime.fromtimestamp(summary.start_time, UTC)
                sums[hour] = sums.get(hour, 0.0) + summary.aggregated_value
        return sums

    async def prepare(self, *, customer_id: str, event_name: str, unit: Unit, subscription_id: str) -> None:
        """Makes what an event needs, unless it is there: its meter, and for charges the price in the subscription.

        Raises UNAVAILABLE.
        """
        with stripe_errors.told():
            meter_id = await self._meter(event_name) or await self._make_meter(event_name)
            if unit == "picodollars" and subscription_id and (customer_id, event_name) not in self._subscribed:
                await self._subscribe(subscription_id, event_name, meter_id)
                if len(self._subscribed) >= _MAX_KNOWN:
                    self._subscribed.clear()
                self._subscribed.add((customer_id, event_name))

    async def credits(self, customer_id: str) -> dict[str, int]:
        """See ports.BillingSink."""
        found: dict[str, int] = {}
        with stripe_errors.told():
            page = await self._client.v1.customers.balance_transactions.list_async(customer_id, {"limit": 100})
            async for one in page.auto_paging_iter():
                id_ = (one.to_dict().get("metadata") or {}).get(_CREDIT_KEY)
                if id_:
                    # On a customer's balance what we owe it is negative.
                    found[id_] = found.get(id_, 0) - one.amount
        return found

    async def give(self, credit: Credit) -> Outcome:
        """See ports.BillingSink."""
        try:
            await self._client.v1.customers.balance_transactions.create_async(
                credit.customer_id,
                {
                    "amount": -credit.cents,
                    "currency": "usd",
                    "description": f"Corrected usage of {credit.month:%Y-%m}: {credit.category}",
                    "metadata": {_CREDIT_KEY: credit.id},
                },
                {"idempotency_key": policy.credit_key(credit)},
            )
        except stripe_errors.FAILURES as error:
            return stripe_errors.outcome(error)
        return Delivered("accepted")

    async def find_customer(self, org_id: str) -> str:
        """The customer of an organisation; empty: there is none. Stripe's search is a minute behind."""
        with stripe_errors.told():
            found = await self._client.v1.customers.search_async(
                {"query": f"metadata['org_id']:'{org_id}'", "limit": 1}
            )
            return found.data[0].id if found.data else ""

    async def make_customer(self, buyer: Buyer) -> str:
        """A new customer. Within a day a repetition makes none more. Raises UNAVAILABLE."""
        params: stripe.params.CustomerCreateParams = {"name": buyer.name, "metadata": {"org_id": buyer.org_id}}
        if buyer.email:
            params["email"] = buyer.email
        if buyer.country:
            params["address"] = {
                "country": buyer.country,
                "state": buyer.state,
                "city": buyer.city,
                "line1": buyer.line1,
                "postal_code": buyer.postal_code,
            }
        if buyer.tax_id:
            params["tax_id_data"] = [{"type": buyer.tax_id_type, "value": buyer.tax_id}]
        with stripe_errors.told():
            made = await self._client.v1.customers.create_async(
                params, {"idempotency_key": f"crosslogic-customer-{buyer.org_id}"}
            )
        return made.id

    async def make_subscription(self, *, org_id: str, customer_id: str) -> Subscription:
        """The customer's subscription: the one it has, or a new one for every meter of charges. Raises UNAVAILABLE."""
        with stripe_errors.told():
            have = await self._client.v1.subscriptions.list_async({"customer": customer_id, "limit": 10})
            for subscription in have.data:
                if subscription.to_dict()["metadata"].get("org_id") == org_id:
                    return _subscription(subscription)
            prices = [
                await self._price(name, meter_id)
                for name, meter_id in sorted((await self._all_meters()).items())
                if name.endswith("_picodollars")
            ]
            if not prices:
                return Subscription("", "", customer_id)
            made = await self._client.v1.subscriptions.create_async(
                {
                    "customer": customer_id,
                    "items": [{"price": price} for price in prices],
                    "automatic_tax": {"enabled": self._tax.automatic},
                    "metadata": {"org_id": org_id},
                },
                {"idempotency_key": f"crosslogic-subscription-{customer_id}"},
            )
        return _subscription(made)

    async def subscription(self, id_: str) -> Subscription:
        """As it is now. Raises NOT_FOUND, UNAVAILABLE."""
        with stripe_errors.told():
            return _subscription(await self._client.v1.subscriptions.retrieve_async(id_))

    async def invoice(self, id_: str) -> Invoice:
        """As it is now. Raises NOT_FOUND, UNAVAILABLE."""
        with stripe_errors.told():
            return _invoice(await self._client.v1.invoices.retrieve_async(id_))

    async def customer_is_gone(self, id_: str) -> bool:
        """Whether a customer was deleted. Raises UNAVAILABLE."""
        with stripe_errors.told():
            try:
                found = await self._client.v1.customers.retrieve_async(id_)
            except stripe.InvalidRequestError as error:
                if error.http_status == 404:  # noqa: PLR2004  # HTTP's own
                    return True
                raise
        return bool(getattr(found, "deleted", False))

    async def meter_problems(self, event_id: str) -> Mapping[str, str]:
        """What a thin meter report is about: the event is fetched. Reasons by identifier.

        Raises NOT_FOUND, UNAVAILABLE.
        """
        with stripe_errors.told():
            event = await self._client.v2.core.events.retrieve_async(event_id)
        problems: dict[str, str] = {}
        reason = getattr(getattr(event, "data", None), "reason", None)
        for kind in getattr(reason, "error_types", None) or []:
            for sample in kind.sample_errors or []:
                problems[policy.identifier_of(sample.request.identifier)] = f"{kind.code} {sample.error_message}"[:500]
        return problems

    async def _meter(self, event_name: str) -> str:
        """A meter's id; empty: there is none."""
        if event_name not in self._meters:
            self._meters = await self._all_meters()
        return self._meters.get(event_name, "")

    async def _all_meters(self) -> dict[str, str]:
        page = await self._client.v1.billing.meters.list_async({"status": "active", "limit": 100})
        return {meter.event_name: meter.id async for meter in page.auto_paging_iter()}

    async def _make_meter(self, event_name: str) -> str:
        made = await self._client.v1.billing.meters.create_async(
            {
                "display_name": event_name.replace("_", " "),
                "event_name": event_name,
                "default_aggregation": {"formula": "sum"},
                "customer_mapping": {"type": "by_id", "event_payload_key": _CUSTOMER_KEY},
                "value_settings": {"event_payload_key": _VALUE_KEY},
            },
            {"idempotency_key": f"crosslogic-meter-{event_name}"},
        )
        self._meters[event_name] = made.id
        return made.id

    async def _price(self, event_name: str, meter_id: str) -> str:
        """What a pico-dollar on this meter costs: a pico-dollar."""
        found = await self._client.v1.prices.list_async({"lookup_keys": [event_name], "active": True, "limit": 1})
        if found.data:
            return found.data[0].id
        product: stripe.params.PriceCreateParamsProductData = {"name": event_name.replace("_", " ")}
        if self._tax.code:
            product["tax_code"] = self._tax.code
        made = await self._client.v1.prices.create_async(
            {
                "currency": "usd",
                "unit_amount_decimal": _CENTS_A_PICODOLLAR,  # type: ignore[typeddict-item]
                "recurring": {"interval": "month", "usage_type": "metered", "meter": meter_id},
                "product_data": product,
                "tax_behavior": "exclusive",
                "lookup_key": event_name,
            },
            {"idempotency_key": f"crosslogic-price-{event_name}"},
        )
        return made.id

    async def _subscribe(self, subscription_id: str, event_name: str, meter_id: str) -> None:
        price = await self._price(event_name, meter_id)
        items = await self._client.v1.subscription_items.list_async({"subscription": subscription_id, "limit": 100})
        if not any([item.price.id == price async for item in items.auto_paging_iter()]):
            await self._client.v1.subscription_items.create_async(
                {"subscription": subscription_id, "price": price},
                {"idempotency_key": f"crosslogic-item-{subscription_id}-{price}"},
            )


def _subscription(found: stripe.Subscription) -> Subscription:
    customer = found.customer
    return Subscription(found.id, found.status, customer if isinstance(customer, str) else customer.id)


def _invoice(found: stripe.Invoice) -> Invoice:
    customer = found.customer
    return Invoice(
        id=found.id or "",
        customer_id=customer if isinstance(customer, str) else customer.id if customer is not None else "",
        number=found.number or "",
        status=found.status or "",
        currency=found.currency,
        total_cents=found.total,
        paid_cents=found.amount_paid,
        created_at=datetime.fromtimestamp(found.created, UTC),
        period_start=datetime.fromtimestamp(found.period_start, UTC),
        period_end=datetime.fromtimestamp(found.period_end, UTC),
        url=found.hosted_invoice_url or "",
    )

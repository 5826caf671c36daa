"""A Stripe of the tests: keeps meters, customers, subscriptions and events, and fails as it is told to."""

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import stripe
from aiohttp import web
from stripe import params as shapes
from stripe.params import billing as billing_shapes

from tests.fakes.stripe_shapes import ShapeError, check, decoded

KEY = "sk_test_of_the_tests"
WEBHOOK_SECRET = "whsec_of_the_tests"
DAY_S = 86_400
Answer = tuple[int, dict[str, Any]]


@dataclass
class Event:
    """A meter event that was taken."""

    identifier: str
    event_name: str
    customer: str
    value: int
    timestamp: int
    taken_at: float
    idempotency_key: str


@dataclass
class Fault:
    """What goes wrong with one call. `when` chooses it by method and path."""

    kind: str
    """`500`, `503`, `429`, `lock`, `hang`, `cut`, `garbage`, `saved_500`."""
    commits: bool = False
    """Whether the call takes effect although its answer is lost."""
    when: Callable[[str, str], bool] = lambda method, path: path == "/v1/billing/meter_events"


def failure(
    status: int, message: str, *, code: str = "", param: str = "", kind: str = "invalid_request_error"
) -> Answer:
    error: dict[str, Any] = {"type": kind, "message": message}
    if code:
        error["code"] = code
    if param:
        error["param"] = param
    return status, {"error": error}


@dataclass
class FakeStripe:
    """State and rules. `now` is seconds since 1970."""

    now: Callable[[], float] = time.time
    aggregation_delay_s: float = 0.0
    identifier_memory_s: float = DAY_S
    """How long an identifier is remembered: at least a day, and here not a second longer."""
    down: bool = False
    """Every call is answered with 503 and takes no effect."""
    faults: deque[Fault] = field(default_factory=deque)
    events: list[Event] = field(default_factory=list)
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    thin_events: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    """What callers say of themselves."""
    overlaps: int = 0
    """Calls for one customer and meter that came while another was under way."""
    call_time_s: float = 0.0
    _identifiers: dict[str, float] = field(default_factory=dict)
    _saved: dict[str, tuple[float, str, Answer]] = field(default_factory=dict)
    _busy: set[tuple[str, str]] = field(default_factory=set)
    _numbers: dict[str, "itertools.count[int]"] = field(default_factory=lambda: defaultdict(lambda: itertools.count(1)))
    base: str = ""

    # What tests look at.

    def total(self, event_name: str, customer: str = "") -> int:
        return sum(e.value for e in self.events if e.event_name == event_name and customer in ("", e.customer))

    def sent(self) -> int:
        return sum(1 for _, path in self.calls if path == "/v1/billing/meter_events")

    # What tests do.

    def put(self, kind: str, prefix: str, **fields: Any) -> dict[str, Any]:
        id_ = f"{prefix}_{next(self._numbers[prefix])}"
        made = {"id": id_, "object": kind, "livemode": False, "created": int(self.now()), **fields}
        self.objects[id_] = made
        return made

    def invoice(self, customer: str, *, status: str, total: int = 1_000) -> dict[str, Any]:
        return self.put(
            "invoice", "in", customer=customer, status=status, total=total, currency="usd", number=None,
            amount_paid=total if status == "paid" else 0, period_start=int(self.now()) - 30 * DAY_S,
            period_end=int(self.now()), hosted_invoice_url="https://invoice.example/1",
        )  # fmt: skip

    def snapshot(self, type_: str, subject: dict[str, Any], id_: str = "") -> bytes:
        body = {
            "id": id_ or f"evt_{next(self._numbers['evt'])}", "object": "event", "type": type_,
            "created": int(self.now()), "livemode": False, "data": {"object": subject}, "api_version": "2026-10-28.x",
            "pending_webhooks": 1, "request": None,
        }  # fmt: skip
        return json.dumps(body).encode()

    def error_report(self, code: str, *keys: str) -> bytes:
        """A thin notification; what it is about has to be fetched."""
        id_ = f"evt_thin_{next(self._numbers['thin'])}"
        meter = next(iter(self._of("billing.meter")), {"id": "mtr_0"})
        related = {"id": meter["id"], "type": "billing.meter", "url": f"/v1/billing/meters/{meter['id']}"}
        thin = {
            "id": id_, "object": "v2.core.event", "type": "v1.billing.meter.error_report_triggered",
            "created": "2026-11-21T12:00:00.000Z", "livemode": False, "related_object": related,
        }  # fmt: skip
        samples = [{"error_message": f"{code} happened", "request": {"identifier": key}} for key in keys]
        reason = {
            "error_count": len(keys),
            "error_types": [{"code": code, "error_count": len(keys), "sample_errors": samples}],
        }
        self.thin_events[id_] = {**thin, "data": {"reason": reason, "developer_message_summary": code}}
        return json.dumps(thin).encode()

    def signed(self, payload: bytes, *, age_s: int = 0, secret: str = WEBHOOK_SECRET) -> dict[str, str]:
        stamp = int(time.time()) - age_s
        header = stripe.WebhookSignature.generate_signature_header(payload.decode(), secret, stamp)
        return {"Stripe-Signature": header}

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeStripe"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.base = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        try:
            yield self
        finally:
            await runner.cleanup()

    # HTTP.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        method, path = request.method, request.path
        self.calls.append((method, path))
        self.agents.add(request.headers.get("X-Stripe-Client-User-Agent", ""))
        self.agents.add("telemetry" if "X-Stripe-Client-Telemetry" in request.headers else "")
        if self.down:
            return self._respond(failure(503, "down for a while", kind="api_error"))
        fault = self._fault(method, path)
        if fault is not None and not fault.commits:
            answer = await self._failed(request, fault)
            if answer is not None:
                return answer
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return self._respond(failure(401, "Invalid API Key provided"))
        if "Stripe-Version" not in request.headers:
            return self._respond(failure(400, "no Stripe-Version"))
        form = (await request.read()).decode() if method == "POST" else request.query_string
        answered = await self._idempotent(request, form, save_500=fault is not None and fault.kind == "saved_500")
        if fault is not None and fault.commits:
            lost = await self._failed(request, fault)
            if lost is not None:
                return lost
        return self._respond(answered)

    def _fault(self, method: str, path: str) -> Fault | None:
        if self.faults and self.faults[0].when(method, path):
            return self.faults.popleft()
        return None

    async def _failed(self, request: web.Request, fault: Fault) -> web.StreamResponse | None:
        if fault.kind in ("500", "503"):
            return self._respond(failure(int(fault.kind), "something went wrong", kind="api_error"))
        if fault.kind == "429":
            return self._respond(failure(429, "Too many requests", code="rate_limit"))
        if fault.kind == "lock":
            return self._respond(failure(429, "This object cannot be accessed right now", code="lock_timeout"))
        if fault.kind == "garbage":
            return web.Response(status=200, text="<html>a proxy says hello</html>", content_type="text/html")
        if fault.kind == "hang":
            await asyncio.sleep(3_600)
        if fault.kind == "cut":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return None

    async def _idempotent(self, request: web.Request, form: str, *, save_500: bool) -> Answer:
        key = request.headers.get("Idempotency-Key", "")
        told = f"{request.method} {request.path} {form}"
        saved = self._saved.get(key) if request.method == "POST" and key else None
        if saved is not None and self.now() - saved[0] < DAY_S:
            if saved[1] != told:
                return failure(400, "Keys for idempotent requests can only be used with the same parameters",
                               kind="idempotency_error")  # fmt: skip
            return saved[2]
        if save_500:
            answer = failure(500, "An unknown error occurred", kind="api_error")
        else:
            try:
                answer = await self._route(request.method, request.path, decoded(form), key)
            except ShapeError as error:
                answer = failure(400, f"Received {error}", param=error.param, code="parameter_unknown")
        if request.method == "POST" and key and (answer[0] < 400 or answer[0] >= 500):
            self._saved[key] = (self.now(), told, answer)
        return answer

    def _respond(self, answer: Answer) -> web.Response:
        status, body = answer
        headers = {"Request-Id": f"req_{next(self._numbers['req'])}"}
        if status == 400:
            headers["stripe-should-retry"] = "false"
        return web.json_response(body, status=status, headers=headers)

    # The API.

    async def _route(self, method: str, path: str, params: dict[str, Any], key: str) -> Answer:
        for pattern, verb, shape, handle in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match is not None and verb == method:
                if shape is not None:
                    check(params, shape)
                if handle is FakeStripe._meter_event:
                    return await self._meter_event(params, key)
                made: Answer = handle(self, params, *match.groups())
                return made
        return failure(404, f"Unrecognized request URL ({method}: {path})")

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [found for found in self.objects.values() if found["object"] == kind]

    def _list(self, found: list[dict[str, Any]], path: str, params: dict[str, Any]) -> Answer:
        limit = int(params.get("limit", 10))
        if "starting_after" in params:
            ids = [one["id"] for one in found]
            found = found[ids.index(params["starting_after"]) + 1 :]
        return 200, {"object": "list", "url": path, "has_more": len(found) > limit, "data": found[:limit]}

    def _get(self, params: dict[str, Any], id_: str) -> Answer:
        found = self.objects.get(id_)
        return (200, found) if found is not None else failure(404, f"No such object: '{id_}'", code="resource_missing")

    def _make_meter(self, params: dict[str, Any]) -> Answer:
        if any(meter["event_name"] == params["event_name"] for meter in self._of("billing.meter")):
            return failure(400, "An active meter already exists with this event_name", param="event_name")
        return 200, self.put(
            "billing.meter", "mtr", status="active", status_transitions={}, updated=int(self.now()),
            event_time_window=None, **params,
        )  # fmt: skip

    def _meters(self, params: dict[str, Any]) -> Answer:
        return self._list(self._of("billing.meter"), "/v1/billing/meters", params)

    async def _meter_event(self, params: dict[str, Any], key: str) -> Answer:
        payload = params["payload"]
        customer, name = payload.get("stripe_customer_id", ""), params["event_name"]
        if len(name) > 100 or len(params.get("identifier", "")) > 100:
            return failure(400, "Invalid string: must be at most 100 characters")
        if not re.fullmatch(r"-?[0-9]{1,15}", payload.get("value", "")):
            return failure(400, "Invalid value: a whole number of at most 15 digits", code="meter_event_invalid_value")
        if (customer, name) in self._busy:
            self.overlaps += 1
            return failure(429, "This object cannot be accessed right now", code="lock_timeout")
        self._busy.add((customer, name))
        try:
            if self.call_time_s:
                await asyncio.sleep(self.call_time_s)
            return self._take(params, customer, key)
        finally:
            self._busy.discard((customer, name))

    def _take(self, params: dict[str, Any], customer: str, key: str) -> Answer:
        now = self.now()
        stamp = int(params.get("timestamp", now))
        if stamp < now - 35 * DAY_S:
            return failure(
                400, "The timestamp is more than 35 calendar days in the past", code="timestamp_too_far_in_past"
            )
        if stamp > now + 300:
            return failure(400, "The timestamp is more than 5 minutes in the future", code="timestamp_in_future")
        id_ = params.get("identifier") or f"auto_{len(self.events)}"
        seen = self._identifiers.get(id_)
        if seen is not None and now - seen < self.identifier_memory_s:
            return failure(400, f"An event already exists with identifier {id_}.", code="duplicate_meter_event")
        self._identifiers[id_] = now
        known = any(meter["event_name"] == params["event_name"] for meter in self._of("billing.meter"))
        if known and customer in self.objects and not self.objects[customer].get("deleted"):
            # What names no customer is taken as well, and told of later.
            value = int(params["payload"]["value"])
            self.events.append(Event(id_, params["event_name"], customer, value, stamp, now, key))
        return 200, {
            "object": "billing.meter_event", "created": int(now), "livemode": False, "identifier": id_,
            "event_name": params["event_name"], "payload": params["payload"], "timestamp": stamp,
        }  # fmt: skip

    def _adjust(self, params: dict[str, Any]) -> Answer:
        wanted = params["cancel"]["identifier"]
        self.events = [event for event in self.events if event.identifier != wanted]
        return 200, {"object": "billing.meter_event_adjustment", "livemode": False, "status": "pending", **params}

    def _summaries(self, params: dict[str, Any], meter_id: str) -> Answer:
        start, end = int(params["start_time"]), int(params["end_time"])
        step = {"hour": 3_600, "day": DAY_S}.get(params.get("value_grouping_window", ""), end - start)
        if start % 60 or end % 60 or (step in (3_600, DAY_S) and (start % step or end % step)):
            return failure(400, "start_time and end_time must align with the grouping window")
        name = self.objects[meter_id]["event_name"]
        sums: dict[int, int] = defaultdict(int)
        for event in self.events:
            aggregated = self.now() - event.taken_at >= self.aggregation_delay_s
            if (
                aggregated
                and event.event_name == name
                and event.customer == params["customer"]
                and start <= event.timestamp < end
            ):
                sums[start + (event.timestamp - start) // step * step] += event.value
        found = [
            {
                "object": "billing.meter_event_summary", "id": f"mtrusg_{meter_id}_{at}", "livemode": False,
                "meter": meter_id, "start_time": at, "end_time": at + step, "aggregated_value": float(value),
            }
            for at, value in sorted(sums.items(), reverse=True)
        ]  # fmt: skip
        return self._list(found, f"/v1/billing/meters/{meter_id}/event_summaries", params)

    def _make_customer(self, params: dict[str, Any]) -> Answer:
        params.pop("tax_id_data", None)
        return 200, self.put("customer", "cus", **params)

    def _search_customers(self, params: dict[str, Any]) -> Answer:
        match = re.fullmatch(r"metadata\['org_id'\]:'([^']*)'", params["query"])
        assert match is not None
        found = [one for one in self._of("customer") if one.get("metadata", {}).get("org_id") == match[1]]
        return 200, {"object": "search_result", "url": "/v1/customers/search", "has_more": False, "data": found}

    def _make_balance(self, params: dict[str, Any], customer: str) -> Answer:
        if customer not in self.objects or self.objects[customer].get("deleted"):
            return failure(404, f"No such customer: '{customer}'", code="resource_missing")
        amount = int(params.pop("amount"))
        balance = self.objects[customer]["balance"] = self.objects[customer].get("balance", 0) + amount
        return 200, self.put(
            "customer_balance_transaction", "cbtxn", customer=customer, amount=amount, ending_balance=balance,
            type="adjustment", credit_note=None, invoice=None, **params,
        )  # fmt: skip

    def _balances(self, params: dict[str, Any], customer: str) -> Answer:
        found = [one for one in self._of("customer_balance_transaction") if one["customer"] == customer]
        return self._list(found[::-1], f"/v1/customers/{customer}/balance_transactions", params)

    def _make_price(self, params: dict[str, Any]) -> Answer:
        params.pop("product_data", None)
        return 200, self.put("price", "price", active=True, product="prod_1", **params)

    def _prices(self, params: dict[str, Any]) -> Answer:
        keys = params.get("lookup_keys", [])
        return self._list([p for p in self._of("price") if p.get("lookup_key") in keys], "/v1/prices", params)

    def _make_subscription(self, params: dict[str, Any]) -> Answer:
        items = params.pop("items")
        made = self.put("subscription", "sub", status="active", **params)
        for item in items:
            self._make_item({"subscription": made["id"], "price": item["price"]})
        return 200, made

    def _subscriptions(self, params: dict[str, Any]) -> Answer:
        found = [one for one in self._of("subscription") if one["customer"] == params.get("customer")]
        return self._list(found, "/v1/subscriptions", params)

    def _make_item(self, params: dict[str, Any]) -> Answer:
        price = self.objects[params["price"]]
        return 200, self.put("subscription_item", "si", subscription=params["subscription"], price=price)

    def _items(self, params: dict[str, Any]) -> Answer:
        found = [one for one in self._of("subscription_item") if one["subscription"] == params["subscription"]]
        return self._list(found, "/v1/subscription_items", params)

    def _thin(self, params: dict[str, Any], id_: str) -> Answer:
        found = self.thin_events.get(id_)
        return (200, found) if found is not None else failure(404, f"No such event: {id_}")


_ROUTES: tuple[tuple[str, str, Any, Any], ...] = (
    (r"/v1/billing/meters", "POST", billing_shapes.MeterCreateParams, FakeStripe._make_meter),
    (r"/v1/billing/meters", "GET", billing_shapes.MeterListParams, FakeStripe._meters),
    (r"/v1/billing/meter_events", "POST", billing_shapes.MeterEventCreateParams, FakeStripe._meter_event),
    (
        r"/v1/billing/meter_event_adjustments",
        "POST",
        billing_shapes.MeterEventAdjustmentCreateParams,
        FakeStripe._adjust,
    ),
    (
        r"/v1/billing/meters/(mtr_\w+)/event_summaries",
        "GET",
        billing_shapes.MeterListEventSummariesParams,
        FakeStripe._summaries,
    ),
    (r"/v1/billing/meters/(mtr_\w+)", "GET", None, FakeStripe._get),
    (r"/v1/customers", "POST", shapes.CustomerCreateParams, FakeStripe._make_customer),
    (r"/v1/customers/search", "GET", shapes.CustomerSearchParams, FakeStripe._search_customers),
    (
        r"/v1/customers/(cus_\w+)/balance_transactions",
        "POST",
        shapes.CustomerBalanceTransactionCreateParams,
        FakeStripe._make_balance,
    ),
    (
        r"/v1/customers/(cus_\w+)/balance_transactions",
        "GET",
        shapes.CustomerBalanceTransactionListParams,
        FakeStripe._balances,
    ),
    (r"/v1/customers/(cus_\w+)", "GET", None, FakeStripe._get),
    (r"/v1/prices", "POST", shapes.PriceCreateParams, FakeStripe._make_price),
    (r"/v1/prices", "GET", shapes.PriceListParams, FakeStripe._prices),
    (r"/v1/subscriptions", "POST", shapes.SubscriptionCreateParams, FakeStripe._make_subscription),
    (r"/v1/subscriptions", "GET", shapes.SubscriptionListParams, FakeStripe._subscriptions),
    (r"/v1/subscriptions/(sub_\w+)", "GET", None, FakeStripe._get),
    (r"/v1/subscription_items", "POST", shapes.SubscriptionItemCreateParams, FakeStripe._make_item),
    (r"/v1/subscription_items", "GET", shapes.SubscriptionItemListParams, FakeStripe._items),
    (r"/v1/invoices/(in_\w+)", "GET", None, FakeStripe._get),
    (r"/v2/core/events/(\w+)", "GET", None, FakeStripe._thin),
)

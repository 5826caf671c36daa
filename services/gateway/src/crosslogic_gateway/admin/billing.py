"""Money: prices, terms, statements, the outbox, reconciliation, FinOps."""

from fractions import Fraction
from typing import Any

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin import billing_schemas as schemas
from crosslogic_gateway.admin.billing_answers import (
    account,
    explanation,
    finops,
    invoice,
    meter_event,
    plan_terms,
    price_version,
    reconciliation,
    statement,
)
from crosslogic_gateway.admin.billing_stub import BillingStub
from crosslogic_gateway.admin.conversion import asked_time, text_or_none, time, whole_number
from crosslogic_gateway.admin.decoding import field_error
from crosslogic_gateway.admin.money import picodollars_of, picodollars_per_token, usd
from crosslogic_gateway.admin.operation import Call

_COLLECTIONS = {"invoice": pb.COLLECTION_INVOICE, "prepaid": pb.COLLECTION_PREPAID}
_STATES = {
    "any": pb.METER_EVENT_STATE_UNSPECIFIED,
    "pending": pb.METER_EVENT_STATE_PENDING,
    "delivered": pb.METER_EVENT_STATE_DELIVERED,
    "dead": pb.METER_EVENT_STATE_DEAD,
}
_MAX_RATIO_PART = 1_000_000
_LARGEST_ID = 2**63 - 1
_DEAREST_HOUR_PICODOLLARS = 10**18


async def create_prices(call: Call[schemas.NewPrices, None]) -> schemas.PriceVersionList:
    """POST /admin/prices."""
    asked = call.body
    prompt = _price(asked.prompt_usd_per_million, "prompt_usd_per_million")
    request = pb.CreatePricesRequest(
        model=asked.model,
        plan=asked.plan,
        category=asked.category,
        base=pb.TokenPrices(
            prompt_picodollars=prompt,
            cached_prompt_picodollars=prompt
            if asked.cached_prompt_usd_per_million is None
            else _price(asked.cached_prompt_usd_per_million, "cached_prompt_usd_per_million"),
            completion_picodollars=_price(asked.completion_usd_per_million, "completion_usd_per_million"),
            embedding_picodollars=prompt
            if asked.embedding_usd_per_million is None
            else _price(asked.embedding_usd_per_million, "embedding_usd_per_million"),
        ),
        discount=_ratio(asked.discount, "discount"),
        markets=asked.markets,
        effective_from=None if asked.effective_from is None else asked_time(asked.effective_from, "effective_from"),
        request_id=call.create_request_id("prices"),
    )
    made = await call.rpc(_billing(call).CreatePrices, request)
    return schemas.PriceVersionList(data=[price_version(version) for version in made.versions], next_page_token=None)


async def list_prices(call: Call[None, schemas.PricesQuery]) -> schemas.PriceVersionList:
    """GET /admin/prices."""
    request = pb.ListPricesRequest(
        model=call.query.model, page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(_billing(call).ListPrices, request)
    return schemas.PriceVersionList(
        data=[price_version(version) for version in page.versions],
        next_page_token=text_or_none(page.next_page_token),
    )


async def get_account(call: Call[None, schemas.MonthQuery]) -> schemas.BillingAccount:
    """GET /admin/orgs/{id}/billing."""
    request = pb.GetAccountRequest(org_id=call.path["id"], month=call.query.month)
    found = await call.rpc(_billing(call).GetAccount, request)
    return account(found)


async def set_terms(call: Call[schemas.NewTerms, None]) -> schemas.BillingAccount:
    """PUT /admin/orgs/{id}/billing/terms."""
    asked = call.body
    terms = _agreed(asked)
    terms.time_zone = asked.time_zone
    request = pb.SetTermsRequest(org_id=call.path["id"], from_month=asked.from_month, terms=terms)
    await call.rpc(_billing(call).SetTerms, request)
    found = await call.rpc(
        _billing(call).GetAccount, pb.GetAccountRequest(org_id=call.path["id"], month=asked.from_month)
    )
    return account(found)


async def get_plan_terms(call: Call[None, schemas.MonthQuery]) -> schemas.PlanTerms:
    """GET /admin/plans/{name}/terms."""
    request = pb.GetPlanTermsRequest(plan=call.path["name"], month=call.query.month)
    return plan_terms((await call.rpc(_billing(call).GetPlanTerms, request)).terms)


async def set_plan_terms(call: Call[schemas.NewPlanTerms, None]) -> schemas.PlanTerms:
    """PUT /admin/plans/{name}/terms."""
    request = pb.SetPlanTermsRequest(plan=call.path["name"], from_month=call.body.from_month, terms=_agreed(call.body))
    return plan_terms((await call.rpc(_billing(call).SetPlanTerms, request)).terms)


async def link_customer(call: Call[schemas.NewCustomer, None]) -> schemas.BillingAccount:
    """POST /admin/orgs/{id}/billing/customer."""
    asked = call.body
    request = pb.LinkCustomerRequest(
        org_id=call.path["id"],
        name=asked.name,
        email=asked.email,
        address=pb.Address(
            country=asked.country,
            state=asked.state,
            city=asked.city,
            line1=asked.line1,
            postal_code=asked.postal_code,
        ),
        tax_id_type=asked.tax_id_type,
        tax_id=asked.tax_id,
    )
    await call.rpc(_billing(call).LinkCustomer, request)
    found = await call.rpc(_billing(call).GetAccount, pb.GetAccountRequest(org_id=call.path["id"]))
    return account(found)


async def get_statement(call: Call[None, schemas.MonthQuery]) -> schemas.Statement:
    """GET /admin/orgs/{id}/billing/statement."""
    request = pb.GetStatementRequest(org_id=call.path["id"], month=call.query.month)
    return statement(await call.rpc(_billing(call).GetStatement, request))


async def list_invoices(call: Call[None, schemas.InvoicesQuery]) -> schemas.InvoiceList:
    """GET /admin/orgs/{id}/billing/invoices."""
    request = pb.ListInvoicesRequest(org_id=call.path["id"], page_size=call.query.page_size)
    page = await call.rpc(_billing(call).ListInvoices, request)
    return schemas.InvoiceList(data=[invoice(one) for one in page.invoices])


async def list_meter_events(call: Call[None, schemas.MeterEventsQuery]) -> schemas.MeterEventList:
    """GET /admin/billing/meter-events."""
    query = call.query
    request = pb.ListMeterEventsRequest(
        state=_STATES[query.state], org_id=query.org_id, page_size=query.page_size, page_token=query.page_token
    )
    page = await call.rpc(_billing(call).ListMeterEvents, request)
    return schemas.MeterEventList(
        data=[meter_event(event) for event in page.events], next_page_token=text_or_none(page.next_page_token)
    )


async def replay_meter_event(call: Call[None, None]) -> schemas.MeterEvent:
    """POST /admin/billing/meter-events/{id}/replay."""
    request = pb.ReplayMeterEventRequest(id=_number(call.path["id"]))
    return meter_event((await call.rpc(_billing(call).ReplayMeterEvent, request)).event)


async def resolve_meter_event(call: Call[None, None]) -> schemas.MeterEvent:
    """POST /admin/billing/meter-events/{id}/resolve."""
    request = pb.ResolveMeterEventRequest(id=_number(call.path["id"]))
    return meter_event((await call.rpc(_billing(call).ResolveMeterEvent, request)).event)


async def reconcile(call: Call[schemas.NewReconciliation, None]) -> schemas.Reconciliation:
    """POST /admin/billing/reconciliations."""
    request = pb.ReconcileRequest(from_day=call.body.from_day, to_day=call.body.to_day)
    return reconciliation((await call.rpc(_billing(call).Reconcile, request)).reconciliation)


async def list_reconciliations(call: Call[None, schemas.ReconciliationsQuery]) -> schemas.ReconciliationList:
    """GET /admin/billing/reconciliations."""
    request = pb.ListReconciliationsRequest(page_size=call.query.page_size, page_token=call.query.page_token)
    page = await call.rpc(_billing(call).ListReconciliations, request)
    return schemas.ReconciliationList(
        data=[reconciliation(one) for one in page.reconciliations], next_page_token=text_or_none(page.next_page_token)
    )


async def sign_off(call: Call[schemas.SignOff, None]) -> schemas.Reconciliation:
    """POST /admin/billing/reconciliations/{id}/sign-off."""
    request = pb.SignOffReconciliationRequest(id=call.path["id"], signed_by=call.body.signed_by, note=call.body.note)
    return reconciliation((await call.rpc(_billing(call).SignOffReconciliation, request)).reconciliation)


async def explain_charge(call: Call[None, None]) -> schemas.ChargeExplanation:
    """GET /admin/billing/charges/{id}."""
    request = pb.ExplainChargeRequest(request_id=call.path["id"])
    return explanation(call.path["id"], await call.rpc(_billing(call).ExplainCharge, request))


async def set_machine(call: Call[schemas.Machine, None]) -> schemas.MachineKept:
    """POST /admin/finops/machines."""
    asked = call.body
    hourly = picodollars_of(asked.hourly_usd)
    if hourly > _DEAREST_HOUR_PICODOLLARS:
        raise field_error("hourly_usd", "expected at most a million dollars")
    machine = pb.MachineCost(
        node_id=asked.node_id,
        region=asked.region,
        gpu_type=asked.gpu_type,
        gpu_count=asked.gpu_count,
        spot=asked.spot,
        hourly_picodollars=hourly,
        models=asked.models,
        from_time=asked_time(asked.from_time, "from_time"),
        to_time=None if asked.to_time is None else asked_time(asked.to_time, "to_time"),
    )
    kept = (await call.rpc(_billing(call).SetMachineCost, pb.SetMachineCostRequest(machine=machine))).machine
    return schemas.MachineKept(
        node_id=kept.node_id, from_time=time(kept.from_time), hourly_usd=usd(kept.hourly_picodollars)
    )


async def query_finops(call: Call[None, schemas.FinopsQuery]) -> schemas.Finops:
    """GET /admin/finops."""
    request = pb.QueryFinopsRequest(
        from_time=asked_time(call.query.from_time, "from_time"), to_time=asked_time(call.query.to_time, "to_time")
    )
    return finops(await call.rpc(_billing(call).QueryFinops, request))


def _billing(call: Call[Any, Any]) -> BillingStub:
    if call.deps.billing is None:
        raise CodedError(ErrorCode.NOT_SUPPORTED, "This gateway has no billing: set CROSSLOGIC_BILLING_TARGET.")
    return call.deps.billing()


def _agreed(asked: schemas.AgreedTerms) -> pb.Terms:
    return pb.Terms(
        collection=_COLLECTIONS[asked.collection],
        free_tokens=asked.free_tokens,
        discount=_ratio(asked.discount, "discount"),
        tiers=[pb.Tier(from_tokens=tier.from_tokens, share=_ratio(tier.share, "share")) for tier in asked.tiers],
        monthly_cap_picodollars=None if asked.monthly_cap_usd is None else str(picodollars_of(asked.monthly_cap_usd)),
        unit_fee_picodollars=str(picodollars_of(asked.unit_fee_usd)),
    )


def _price(text: str, field: str) -> int:
    try:
        return picodollars_per_token(text)
    except ValueError as error:
        raise field_error(field, str(error)) from None


def _ratio(text: str, field: str) -> pb.Ratio:
    value = Fraction(text)
    if value.numerator > _MAX_RATIO_PART or value.denominator > _MAX_RATIO_PART:
        raise field_error(field, f"expected a fraction of whole numbers up to {_MAX_RATIO_PART}")
    return pb.Ratio(numerator=value.numerator, denominator=value.denominator)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > _LARGEST_ID:
        raise CodedError(ErrorCode.NOT_FOUND)
    return whole_number(text)

"""Billing's answers as JSON."""

from typing import Literal

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_gateway.admin import billing_schemas as schemas
from crosslogic_gateway.admin.conversion import optional_time, text_or_none, time, whole_number
from crosslogic_gateway.admin.money import usd

_STATES: dict[int, schemas.MeterEventState] = {
    pb.METER_EVENT_STATE_PENDING: "pending",
    pb.METER_EVENT_STATE_DELIVERED: "delivered",
    pb.METER_EVENT_STATE_DEAD: "dead",
}


def price_version(version: pb.PriceVersion) -> schemas.PriceVersion:
    """A price version."""
    return schemas.PriceVersion(
        id=version.id,
        model=version.model,
        market=version.market,
        plan=text_or_none(version.plan),
        category=version.category,
        base=_token_prices(version.base),
        multiplier=_ratio(version.multiplier),
        discount=_ratio(version.discount),
        prices=_token_prices(version.prices),
        effective_from=time(version.effective_from),
        effective_to=optional_time(version, "effective_to"),
        create_time=time(version.create_time),
    )


def account(answer: pb.GetAccountResponse) -> schemas.BillingAccount:
    """An account and its terms."""
    found = answer.account
    return schemas.BillingAccount(
        org_id=found.org_id,
        customer_id=text_or_none(found.customer_id),
        subscription_id=text_or_none(found.subscription_id),
        subscription_status=text_or_none(found.subscription_status),
        failing_since=optional_time(found, "failing_since"),
        suspend_time=optional_time(found, "suspend_time"),
        plan=text_or_none(answer.plan),
        agreed_alone=answer.agreed_alone,
        terms=_terms(answer.terms),
    )


def plan_terms(found: pb.PlanTerms) -> schemas.PlanTerms:
    """A version of a plan's terms."""
    return schemas.PlanTerms(
        plan=found.plan,
        version=found.version,
        from_month=text_or_none(found.from_month),
        terms=_terms(found.terms),
    )


def statement(found: pb.GetStatementResponse) -> schemas.Statement:
    """A month."""
    total = whole_number(found.total_picodollars)
    return schemas.Statement(
        org_id=found.org_id,
        month=found.month,
        from_time=time(found.from_time),
        to_time=time(found.to_time),
        lines=[
            schemas.StatementLine(
                category=line.category,
                tokens=line.tokens,
                uncharged_tokens=line.uncharged_tokens,
                list_usd=_usd(line.list_picodollars),
                charge_picodollars=whole_number(line.charge_picodollars),
                charge_usd=_usd(line.charge_picodollars),
                exported_picodollars=whole_number(line.exported_picodollars),
            )
            for line in found.lines
        ],
        capped_usd=_usd(found.capped_picodollars),
        fee_usd=_usd(found.fee_picodollars),
        total_picodollars=total,
        total_usd=usd(total),
        forecast_usd=_usd(found.forecast_picodollars),
        free_tokens_left=found.free_tokens_left,
        reserved=[
            schemas.ReservedUse(
                model=use.model, units=use.units, tokens=use.tokens, capacity_tokens=use.capacity_tokens
            )
            for use in found.reserved
        ],
        settled_until=time(found.settled_until),
    )


def invoice(found: pb.Invoice) -> schemas.Invoice:
    """An invoice."""
    return schemas.Invoice(
        id=found.id,
        number=text_or_none(found.number),
        status=found.status,
        currency=found.currency,
        total_cents=found.total_cents,
        paid_cents=found.paid_cents,
        create_time=time(found.create_time),
        period_start=time(found.period_start),
        period_end=time(found.period_end),
        url=text_or_none(found.url),
    )


def meter_event(event: pb.MeterEvent) -> schemas.MeterEvent:
    """A meter event."""
    return schemas.MeterEvent(
        id=event.id,
        identifier=event.identifier,
        org_id=event.org_id,
        customer_id=event.customer_id,
        event_name=event.event_name,
        value=event.value,
        window_start=time(event.window_start),
        revision=event.revision,
        state=_STATES[event.state],
        delivered_how=text_or_none(event.delivered_how),
        attempts=event.attempts,
        last_error=text_or_none(event.last_error),
        create_time=time(event.create_time),
        deliver_time=optional_time(event, "deliver_time"),
    )


def reconciliation(report: pb.Reconciliation) -> schemas.Reconciliation:
    """A report."""
    return schemas.Reconciliation(
        id=report.id,
        from_day=report.from_day,
        to_day=report.to_day,
        create_time=time(report.create_time),
        unexplained=report.unexplained,
        missing=list(report.missing),
        lines=[
            schemas.ReconciliationLine(
                what=line.what,
                org_id=text_or_none(line.org_id),
                category=text_or_none(line.category),
                unit=line.unit,
                left=whole_number(line.left),
                right=whole_number(line.right),
                explanation=text_or_none(line.explanation),
                unexplained=line.unexplained,
            )
            for line in report.lines
        ],
        signed_by=text_or_none(report.signed_by),
        signed_note=text_or_none(report.signed_note),
        sign_time=optional_time(report, "sign_time"),
    )


def explanation(request_id: str, found: pb.ExplainChargeResponse) -> schemas.ChargeExplanation:
    """Why a request cost what it cost."""
    cost = whole_number(found.cost_picodollars)
    return schemas.ChargeExplanation(
        request_id=request_id,
        org_id=found.org_id,
        model=found.model,
        region=found.region,
        start_time=time(found.start_time),
        outcome=found.outcome,
        prompt_tokens=found.prompt_tokens,
        cached_prompt_tokens=found.cached_prompt_tokens,
        completion_tokens=found.completion_tokens,
        cost_picodollars=cost,
        cost_usd=usd(cost),
        price_version=price_version(found.price_version) if found.HasField("price_version") else None,
        from_witness=found.from_witness,
        corrections=found.corrections,
        month=found.month,
        window_start=time(found.window_start),
        events=[meter_event(event) for event in found.events],
        sentences=list(found.sentences),
    )


def finops(found: pb.QueryFinopsResponse) -> schemas.Finops:
    """Cost, revenue and margin."""
    return schemas.Finops(
        models=[_finops_row(row) for row in found.models],
        regions=[_finops_row(row) for row in found.regions],
        markets=[_finops_row(row) for row in found.markets],
        idle_cost_usd=_usd(found.idle_cost_picodollars),
        total=_finops_row(found.total),
    )


def _finops_row(row: pb.FinopsRow) -> schemas.FinopsRow:
    return schemas.FinopsRow(
        name=row.name,
        cost_usd=_usd(row.cost_picodollars),
        revenue_usd=_usd(row.revenue_picodollars),
        margin_usd=_usd(row.margin_picodollars),
        tokens=row.tokens,
        cost_usd_per_million_tokens=_optional_usd(row.cost_per_million_tokens_picodollars),
        gpu_hours=row.gpu_hours,
        cost_usd_per_gpu_hour=_optional_usd(row.cost_per_gpu_hour_picodollars),
    )


def _terms(terms: pb.Terms) -> schemas.Terms:
    mode: Literal["serverless", "reserved"] = "reserved" if terms.mode == pb.BILLING_MODE_RESERVED else "serverless"
    collection: Literal["invoice", "prepaid"] = "prepaid" if terms.collection == pb.COLLECTION_PREPAID else "invoice"
    capped = terms.HasField("monthly_cap_picodollars")
    return schemas.Terms(
        mode=mode,
        collection=collection,
        free_tokens=terms.free_tokens,
        discount=_ratio(terms.discount),
        tiers=[schemas.Tier(from_tokens=tier.from_tokens, share=_ratio(tier.share)) for tier in terms.tiers],
        monthly_cap_usd=_usd(terms.monthly_cap_picodollars) if capped else None,
        reserved_units=dict(terms.reserved_units),
        unit_fee_usd=_usd(terms.unit_fee_picodollars or "0"),
        overage="shed" if terms.overage == pb.OVERAGE_SHED else "bill",
        time_zone=terms.time_zone,
    )


def _token_prices(prices: pb.TokenPrices) -> schemas.TokenPrices:
    return schemas.TokenPrices(
        prompt=prices.prompt_picodollars,
        cached_prompt=prices.cached_prompt_picodollars,
        completion=prices.completion_picodollars,
        embedding=prices.embedding_picodollars,
    )


def _ratio(ratio: pb.Ratio) -> str:
    return str(ratio.numerator) if ratio.denominator == 1 else f"{ratio.numerator}/{ratio.denominator}"


def _usd(digits: str) -> str:
    return usd(whole_number(digits))


def _optional_usd(digits: str) -> str | None:
    return _usd(digits) if digits else None

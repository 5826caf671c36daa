"""Views, protobuf to domain and back."""

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_billing.export import wire as export_wire
from crosslogic_billing.export.stripe_sink import Invoice
from crosslogic_billing.prices.wire import price_version, read_time
from crosslogic_billing.views.domain import Finops, FinopsRow, Machine, MonthView
from crosslogic_billing.views.service import Explanation
from crosslogic_common.clock import timestamp


def statement(view: MonthView) -> pb.GetStatementResponse:
    """A month in the contract's words."""
    charged = view.statement
    return pb.GetStatementResponse(
        org_id=view.org_id,
        month=f"{view.month:%Y-%m}",
        from_time=timestamp(view.begins),
        to_time=timestamp(view.ends),
        lines=[
            pb.StatementLine(
                category=line.category,
                tokens=line.tokens,
                uncharged_tokens=line.free_tokens,
                list_picodollars=str(line.list_picodollars),
                charge_picodollars=str(line.charge_picodollars),
                exported_picodollars=str(view.exported.get(line.category, 0)),
            )
            for line in charged.categories
        ],
        capped_picodollars=str(charged.capped_picodollars),
        fee_picodollars=str(charged.fee_picodollars),
        total_picodollars=str(charged.total_picodollars),
        forecast_picodollars=str(view.forecast_picodollars),
        free_tokens_left=view.free_tokens_left,
        reserved=[
            pb.ReservedUse(
                model=use.model, units=use.units, tokens=max(use.tokens, 0), capacity_tokens=use.capacity_tokens
            )
            for use in view.reserved
        ],
        settled_until=timestamp(view.settled_until),
    )


def invoice(found: Invoice) -> pb.Invoice:
    """An invoice in the contract's words."""
    return pb.Invoice(
        id=found.id,
        number=found.number,
        status=found.status,
        currency=found.currency,
        total_cents=found.total_cents,
        paid_cents=found.paid_cents,
        create_time=timestamp(found.created_at),
        period_start=timestamp(found.period_start),
        period_end=timestamp(found.period_end),
        url=found.url,
    )


def explanation(found: Explanation) -> pb.ExplainChargeResponse:
    """A dispute's facts in the contract's words."""
    request = found.request
    return pb.ExplainChargeResponse(
        org_id=request.org_id,
        model=request.model,
        region=request.region,
        start_time=timestamp(request.start_time),
        outcome=request.outcome,
        prompt_tokens=request.prompt_tokens,
        cached_prompt_tokens=request.cached_prompt_tokens,
        completion_tokens=request.completion_tokens,
        cost_picodollars=str(request.cost_picodollars),
        price_version=None if found.version is None else price_version(found.version),
        from_witness=request.from_witness,
        corrections=request.corrections,
        month=f"{found.month:%Y-%m}",
        window_start=timestamp(found.window_start),
        events=[export_wire.meter_event(event) for event in found.events],
        sentences=found.sentences,
    )


def read_machine(message: pb.MachineCost) -> Machine:
    """A machine as asked for. Raises INVALID_ARGUMENT."""
    return Machine(
        node_id=message.node_id,
        region=message.region,
        gpu_type=message.gpu_type,
        gpu_count=message.gpu_count,
        spot=message.spot,
        hourly_picodollars=message.hourly_picodollars,
        models=tuple(message.models),
        begins=read_time(message.from_time, "from_time"),
        ends=read_time(message.to_time, "to_time") if message.HasField("to_time") else None,
    )


def machine(found: Machine) -> pb.MachineCost:
    """A machine in the contract's words."""
    return pb.MachineCost(
        node_id=found.node_id,
        region=found.region,
        gpu_type=found.gpu_type,
        gpu_count=found.gpu_count,
        spot=found.spot,
        hourly_picodollars=found.hourly_picodollars,
        models=found.models,
        from_time=timestamp(found.begins),
        to_time=None if found.ends is None else timestamp(found.ends),
    )


def finops(found: Finops) -> pb.QueryFinopsResponse:
    """Cost, revenue and margin in the contract's words."""
    return pb.QueryFinopsResponse(
        models=[_row(row) for row in found.models],
        regions=[_row(row) for row in found.regions],
        markets=[_row(row) for row in found.markets],
        idle_cost_picodollars=str(found.idle_picodollars),
        total=_row(found.total),
    )


def _row(row: FinopsRow) -> pb.FinopsRow:
    return pb.FinopsRow(
        name=row.name,
        cost_picodollars=str(row.cost_picodollars),
        revenue_picodollars=str(row.revenue_picodollars),
        margin_picodollars=str(row.margin_picodollars),
        tokens=max(row.tokens, 0),
        cost_per_million_tokens_picodollars=_text(row.cost_per_million),
        gpu_hours=row.gpu_seconds / 3_600,
        cost_per_gpu_hour_picodollars=_text(row.cost_per_gpu_hour),
    )


def _text(number: int | None) -> str:
    return "" if number is None else str(number)

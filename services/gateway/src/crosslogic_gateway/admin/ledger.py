"""The usage ledger for auditors: corrections, and what of it agrees."""

import uuid
from typing import Any

from msgspec import UNSET

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin import budget_schemas as schemas
from crosslogic_gateway.admin.conversion import asked_time, time, whole_number
from crosslogic_gateway.admin.decoding import field_error
from crosslogic_gateway.admin.money import usd
from crosslogic_gateway.admin.operation import Call
from crosslogic_gateway.admin.usage import usage_record

_OUTCOMES: dict[schemas.OutcomeName, common_pb.Outcome.ValueType] = {
    "succeeded": common_pb.OUTCOME_SUCCEEDED,
    "client_disconnected": common_pb.OUTCOME_CLIENT_DISCONNECTED,
    "failed": common_pb.OUTCOME_FAILED,
    "timed_out": common_pb.OUTCOME_TIMED_OUT,
}


async def correct_record(call: Call[schemas.NewCorrection, None]) -> schemas.Correction:
    """POST /admin/usage/records/{id}/corrections."""
    body = call.body
    request = pb.CorrectRecordRequest(
        correction_id=call.create_request_id("correction") or str(uuid.uuid4()),
        request_id=_path_id(call),
        expected_revision=body.expected_revision,
        usage=_usage(body),
        outcome=common_pb.OUTCOME_UNSPECIFIED if body.outcome is UNSET else _OUTCOMES[body.outcome],
        reason=body.reason,
        author=(call.who.name or call.who.kind)[:256],
    )
    for name in ("prompt_price_picodollars", "cached_prompt_price_picodollars", "completion_price_picodollars"):
        value = getattr(body, name)
        if value is not UNSET:
            setattr(request, name, value)
    made = await call.rpc(call.deps.accountant().CorrectRecord, request)
    return schemas.Correction(record=usage_record(made.record), revision=made.record.revision, duplicate=made.duplicate)


async def compare_usage(call: Call[None, schemas.ComparisonQuery]) -> schemas.Comparison:
    """GET /admin/usage/comparison."""
    request = pb.CompareUsageRequest(
        from_time=asked_time(call.query.from_, "from"),
        to_time=asked_time(call.query.to, "to"),
        org_id=call.query.org_id,
    )
    found = await call.rpc(call.deps.accountant().CompareUsage, request)
    return schemas.Comparison(
        records=_totals(found.records),
        rollups=_totals(found.rollups),
        settled_from_witnesses=_totals(found.settled_from_witnesses),
        unpaid_witnesses=_totals(found.unpaid_witnesses),
        witness_differences=[_witness(each) for each in found.witness_differences],
        witness_differences_total=found.witness_differences_total,
        rollup_differences=[
            schemas.RollupDifference(
                time=time(each.time),
                daily=each.daily,
                org_id=each.org_id,
                records=_totals(each.records),
                rollup=_totals(each.rollup),
            )
            for each in found.rollup_differences
        ],
        rollup_differences_total=found.rollup_differences_total,
        corrections=found.corrections,
        open_witnesses=found.open_witnesses,
        last_sequence=found.last_sequence,
        rolled_up_sequence=found.rolled_up_sequence,
        billed_sequence=found.billed_sequence,
    )


def _path_id(call: Call[Any, Any]) -> str:
    try:
        return str(uuid.UUID(call.path["id"]))
    except ValueError:
        raise CodedError(ErrorCode.NOT_FOUND) from None


def _usage(body: schemas.NewCorrection) -> common_pb.TokenUsage | None:
    given = (body.prompt_tokens, body.cached_prompt_tokens, body.completion_tokens)
    if all(value is UNSET for value in given):
        return None
    if body.prompt_tokens is UNSET or body.completion_tokens is UNSET:
        raise field_error("prompt_tokens", "give `prompt_tokens` and `completion_tokens` together")
    return common_pb.TokenUsage(
        prompt_tokens=body.prompt_tokens,
        cached_prompt_tokens=0 if body.cached_prompt_tokens is UNSET else body.cached_prompt_tokens,
        completion_tokens=body.completion_tokens,
        source=common_pb.COUNT_SOURCE_ENGINE_FINAL,
    )


def _totals(totals: pb.UsageTotals) -> schemas.Totals:
    cost = whole_number(totals.cost_picodollars or "0")
    return schemas.Totals(
        requests=totals.requests,
        prompt_tokens=totals.prompt_tokens,
        cached_prompt_tokens=totals.cached_prompt_tokens,
        completion_tokens=totals.completion_tokens,
        cost_picodollars=cost,
        cost_usd=usd(cost),
    )


def _witness(found: pb.WitnessDifference) -> schemas.WitnessDifference:
    return schemas.WitnessDifference(
        request_id=found.request_id,
        node_id=found.node_id,
        gateway_prompt_tokens=found.gateway_usage.prompt_tokens,
        gateway_completion_tokens=found.gateway_usage.completion_tokens,
        witness_prompt_tokens=found.witness_usage.prompt_tokens,
        witness_completion_tokens=found.witness_usage.completion_tokens,
    )

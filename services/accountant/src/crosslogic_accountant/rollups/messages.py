"""Comparisons as messages: protobuf to domain and back."""

from datetime import UTC, datetime, timedelta

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_accountant.domain import Counts
from crosslogic_accountant.rollups.compare_store import Comparison, RollupDifference, Totals, WitnessDifference
from crosslogic_accountant.usage_messages import read_time
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode

MAX_PERIOD = timedelta(days=35)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_period(
    message: pb.CompareUsageRequest | pb.RebuildRollupsRequest, step: timedelta = _HOUR
) -> tuple[datetime, datetime]:
    """A period between full hours or days. Raises INVALID_ARGUMENT."""
    low, high = read_time(message.from_time, "from_time"), read_time(message.to_time, "to_time")
    unit = "day" if step == _DAY else "hour"
    for name, edge in (("from_time", low), ("to_time", high)):
        if (edge - _EPOCH) % step:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` must be a full {unit}, UTC.", param=name)
    if not timedelta() < high - low <= MAX_PERIOD:
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT, "The period must end after it starts, at most 35 days later.", param="to_time"
        )
    return low, high


def read_days(message: pb.RebuildRollupsRequest) -> tuple[datetime, datetime]:
    """A period of full days. Raises INVALID_ARGUMENT."""
    return read_period(message, _DAY)


def comparison(found: Comparison) -> pb.CompareUsageResponse:
    """What was found."""
    return pb.CompareUsageResponse(
        records=_totals(found.records),
        rollups=_totals(found.rollups),
        settled_from_witnesses=_totals(found.settled_from_witnesses),
        unpaid_witnesses=_totals(found.unpaid_witnesses),
        witness_differences=[_witness(each) for each in found.witness_differences],
        witness_differences_total=found.witness_differences_total,
        rollup_differences=[_rollup(each) for each in found.rollup_differences],
        rollup_differences_total=found.rollup_differences_total,
        corrections=found.corrections,
        open_witnesses=found.open_witnesses,
        last_sequence=found.last_sequence,
        rolled_up_sequence=found.rolled_up_sequence,
        # Money is posted in the transaction that rolls up.
        posted_sequence=found.rolled_up_sequence,
        billed_sequence=found.billed_sequence,
    )


def _totals(totals: Totals) -> pb.UsageTotals:
    return pb.UsageTotals(
        requests=totals.requests,
        prompt_tokens=totals.prompt_tokens,
        cached_prompt_tokens=totals.cached_prompt_tokens,
        completion_tokens=totals.completion_tokens,
        cost_picodollars=str(totals.cost_picodollars),
    )


def _witness(found: WitnessDifference) -> pb.WitnessDifference:
    return pb.WitnessDifference(
        request_id=str(found.request_id),
        node_id=found.node_id,
        gateway_usage=_usage(found.gateway),
        gateway_outcome=found.gateway_outcome,  # type: ignore[arg-type]  # stored as it came
        witness_usage=_usage(found.witness),
        witness_outcome=found.witness_outcome,  # type: ignore[arg-type]  # stored as it came
    )


def _rollup(found: RollupDifference) -> pb.RollupDifference:
    return pb.RollupDifference(
        time=timestamp(found.time),
        daily=found.daily,
        org_id=str(found.org_id),
        records=_totals(found.records),
        rollup=_totals(found.rollup),
    )


def _usage(counts: Counts) -> common_pb.TokenUsage:
    return common_pb.TokenUsage(
        prompt_tokens=counts.prompt_tokens,
        cached_prompt_tokens=counts.cached_prompt_tokens,
        completion_tokens=counts.completion_tokens,
    )

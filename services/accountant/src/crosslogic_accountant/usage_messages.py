"""What the usage ledger says and is asked, as messages: protobuf to domain and back."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_accountant.correction_store import Correction
from crosslogic_accountant.domain import UsageRecord
from crosslogic_accountant.policy import MAX_PRICE_PICODOLLARS
from crosslogic_accountant.record_log_store import Entry
from crosslogic_accountant.record_reader import MAX_TEXT_CHARS, read_counts, read_id, read_outcome
from crosslogic_accountant.usage_queries import MAX_GROUPS, Filter, Group, ListedRecord, Sums
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode

MAX_REASON_CHARS = 1_000
MAX_AUTHOR_CHARS = 256

_GROUPS = {
    pb.GROUP_BY_ORG: Group.ORG,
    pb.GROUP_BY_ENVIRONMENT: Group.ENVIRONMENT,
    pb.GROUP_BY_API_KEY: Group.API_KEY,
    pb.GROUP_BY_MODEL: Group.MODEL,
    pb.GROUP_BY_REGION: Group.REGION,
    pb.GROUP_BY_HOUR: Group.HOUR,
    pb.GROUP_BY_DAY: Group.DAY,
}


def read_groups(values: Sequence[int]) -> list[Group]:
    """The columns to group by. Raises INVALID_ARGUMENT."""
    groups = [_GROUPS.get(value) for value in values]  # type: ignore[call-overload]  # the enum's values are plain numbers
    known = [group for group in groups if group is not None]
    if len(known) != len(groups) or len(set(known)) != len(known) or len(known) > MAX_GROUPS:
        raise CodedError(
            ErrorCode.INVALID_ARGUMENT,
            f"`group_by` takes at most {MAX_GROUPS} different columns.",
            param="group_by",
        )
    return known


def read_filter(message: pb.UsageFilter, request_id: str = "") -> Filter:
    """Which records are asked for. Raises INVALID_ARGUMENT."""
    for name in ("model", "region"):
        if "\0" in getattr(message, name):
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` holds a zero byte.", param=name)
    return Filter(
        org_id=read_uuid(message.org_id, "org_id"),
        environment_id=read_uuid(message.environment_id, "environment_id"),
        api_key_id=read_uuid(message.api_key_id, "api_key_id"),
        model=message.model or None,
        region=message.region or None,
        since=read_time(message.from_time, "from_time") if message.HasField("from_time") else None,
        until=read_time(message.to_time, "to_time") if message.HasField("to_time") else None,
        request_id=read_uuid(request_id, "request_id"),
    )


def read_uuid(text: str, name: str) -> UUID | None:
    """None where nothing was given. Raises INVALID_ARGUMENT."""
    return UUID(bytes=read_id(text, name)) if text else None


def read_time(value: Timestamp, name: str) -> datetime:
    """Raises INVALID_ARGUMENT."""
    try:
        return value.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` is not a time.", param=name) from None


def usage_row(row: Sums, groups: Sequence[Group]) -> pb.UsageRow:
    """A row of sums."""
    message = pb.UsageRow(
        requests=row.requests,
        prompt_tokens=row.prompt_tokens,
        cached_prompt_tokens=row.cached_prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_picodollars=str(row.cost_picodollars),
    )
    for group, key in zip(groups, row.keys, strict=True):
        if isinstance(key, datetime):
            message.time.CopyFrom(timestamp(key))
        else:
            setattr(message, group, str(key))
    return message


def read_correction(message: pb.CorrectRecordRequest) -> Correction:
    """What is to stand in the place of a record. Raises INVALID_ARGUMENT."""
    for name, longest in (("reason", MAX_REASON_CHARS), ("author", MAX_AUTHOR_CHARS)):
        text = getattr(message, name)
        if not 1 <= len(text) <= longest or "\0" in text:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` must be 1 to {longest} characters.", param=name)

    def price(name: str) -> int | None:
        if not message.HasField(name):  # type: ignore[arg-type]  # one of the three below
            return None
        value = int(getattr(message, name))
        if value > MAX_PRICE_PICODOLLARS:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` is above 10^12.", param=name)
        return value

    version = message.price_version if message.HasField("price_version") else None
    if version is not None and (len(version) > MAX_TEXT_CHARS or "\0" in version):
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`price_version` is no version's id.", param="price_version")
    return Correction(
        correction_id=UUID(bytes=read_id(message.correction_id, "correction_id")),
        request_id=UUID(bytes=read_id(message.request_id, "request_id")),
        expected_revision=message.expected_revision,
        reason=message.reason,
        author=message.author,
        counts=read_counts(message.usage) if message.HasField("usage") else None,
        outcome=read_outcome(message.outcome) if message.outcome else None,
        prompt_price_picodollars=price("prompt_price_picodollars"),
        completion_price_picodollars=price("completion_price_picodollars"),
        cached_prompt_price_picodollars=price("cached_prompt_price_picodollars"),
        price_version=version,
    )


def usage_record(record: UsageRecord) -> pb.UsageRecord:
    """A record as it was reported."""
    terms, counts = record.terms, record.counts
    context = pb.RequestContext(
        request_id=str(UUID(bytes=record.request_id)),
        org_id=str(UUID(bytes=terms.org_id)),
        environment_id=str(UUID(bytes=terms.environment_id)),
        api_key_id=str(UUID(bytes=terms.api_key_id)),
        model=terms.model,
        start_time_unix_us=record.start_time_us,
        prompt_price_picodollars=terms.prompt_price_picodollars,
        completion_price_picodollars=terms.completion_price_picodollars,
        api=terms.api,
        stream=record.stream,
        region=terms.region,
        node_id=terms.node_id,
        max_total_tokens=terms.max_total_tokens,
        price_version=terms.price_version,
        plan=terms.plan,
        cached_prompt_price_picodollars=terms.cached_prompt_price_picodollars,
    )
    return pb.UsageRecord(
        context=context,
        usage=common_pb.TokenUsage(
            prompt_tokens=counts.prompt_tokens,
            cached_prompt_tokens=counts.cached_prompt_tokens,
            completion_tokens=counts.completion_tokens,
            source=counts.source,  # type: ignore[arg-type]  # stored as it came
        ),
        outcome=record.outcome,  # type: ignore[arg-type]  # stored as it came
        latency_us=record.latency_us,
        time_to_first_token_us=record.time_to_first_token_us,
        http_status=record.http_status,
        attempts=record.attempts,
        failed_over=record.failed_over,
        region_failover=record.region_failover,
        resumed=record.resumed,
    )


def stored_record(listed: ListedRecord) -> pb.StoredUsageRecord:
    """An effective record."""
    record = listed.row.record
    return pb.StoredUsageRecord(
        record=usage_record(record),
        cost_picodollars=str(record.cost_picodollars),
        record_time=timestamp(listed.record_time),
        from_witness=record.from_witness,
        revision=listed.row.revision,
        sequence=listed.sequence,
        billed=listed.billed,
    )


def ledger_entry(entry: Entry) -> pb.LedgerEntry:
    """A row of the ledger; a reversal's amounts are those of what it reverses."""
    row = entry.row
    record = row.record
    return pb.LedgerEntry(
        sequence=entry.sequence,
        record=usage_record(record),
        requests=row.requests,
        revision=row.revision,
        corrects=row.corrects,
        cost_picodollars=str(record.cost_picodollars),
        record_time=timestamp(entry.record_time),
        from_witness=record.from_witness,
    )

"""Usage: sums and single records."""

from typing import Literal

from msgspec import UNSET

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_gateway.admin import schemas
from crosslogic_gateway.admin.conversion import asked_time, microseconds, text_or_none, time, whole_number
from crosslogic_gateway.admin.decoding import field_error
from crosslogic_gateway.admin.money import usd
from crosslogic_gateway.admin.operation import Call

MAX_GROUPS = 4

# Each column by its short name and by the name that it has in filters and rows.
_GROUPS: dict[str, pb.GroupBy.ValueType] = {
    "org": pb.GROUP_BY_ORG,
    "org_id": pb.GROUP_BY_ORG,
    "environment": pb.GROUP_BY_ENVIRONMENT,
    "environment_id": pb.GROUP_BY_ENVIRONMENT,
    "key": pb.GROUP_BY_API_KEY,
    "key_id": pb.GROUP_BY_API_KEY,
    "model": pb.GROUP_BY_MODEL,
    "region": pb.GROUP_BY_REGION,
    "hour": pb.GROUP_BY_HOUR,
    "day": pb.GROUP_BY_DAY,
}
_Outcome = Literal["succeeded", "client_disconnected", "failed", "timed_out", "unspecified"]
_OUTCOMES: dict[int, _Outcome] = {
    common_pb.OUTCOME_SUCCEEDED: "succeeded",
    common_pb.OUTCOME_CLIENT_DISCONNECTED: "client_disconnected",
    common_pb.OUTCOME_FAILED: "failed",
    common_pb.OUTCOME_TIMED_OUT: "timed_out",
}
_Source = Literal["engine_final", "engine_running", "none", "unspecified"]
_SOURCES: dict[int, _Source] = {
    common_pb.COUNT_SOURCE_ENGINE_FINAL: "engine_final",
    common_pb.COUNT_SOURCE_ENGINE_RUNNING: "engine_running",
    common_pb.COUNT_SOURCE_NONE: "none",
}


async def query_usage(call: Call[None, schemas.UsageQuery]) -> schemas.UsageList:
    """GET /admin/usage."""
    groups = asked_groups(call.query.group_by)
    request = pb.QueryUsageRequest(
        filter=_filter(call.query),
        group_by=groups,
        page_size=call.query.page_size,
        page_token=call.query.page_token,
    )
    page = await call.rpc(call.deps.accountant().QueryUsage, request)
    return schemas.UsageList(
        data=[_row(row, frozenset(groups)) for row in page.rows], next_page_token=text_or_none(page.next_page_token)
    )


async def list_records(call: Call[None, schemas.RecordsQuery]) -> schemas.UsageRecordList:
    """GET /admin/usage/records."""
    request = pb.ListUsageRecordsRequest(
        filter=_filter(call.query),
        request_id=call.query.request_id,
        page_size=call.query.page_size,
        page_token=call.query.page_token,
    )
    page = await call.rpc(call.deps.accountant().ListUsageRecords, request)
    return schemas.UsageRecordList(
        data=[usage_record(record) for record in page.records], next_page_token=text_or_none(page.next_page_token)
    )


def asked_groups(text: str) -> list[pb.GroupBy.ValueType]:
    """The columns in `text`, with commas between. Raises INVALID_ARGUMENT: unknown, twice, more than 4."""
    names = [name.strip() for name in text.split(",")] if text else []
    groups: list[pb.GroupBy.ValueType] = []
    for name in names:
        group = _GROUPS.get(name)
        if group is None:
            raise field_error(
                "group_by", "expected some of org, environment, key, model, region, hour, day, with commas between"
            )
        if group in groups:
            raise field_error("group_by", f"`{name}` is given twice")
        groups.append(group)
    if len(groups) > MAX_GROUPS:
        raise field_error("group_by", f"expected at most {MAX_GROUPS} columns")
    return groups


def _filter(query: schemas.UsageQuery | schemas.RecordsQuery) -> pb.UsageFilter:
    return pb.UsageFilter(
        org_id=query.org_id,
        environment_id=query.environment_id,
        api_key_id=query.key_id,
        model=query.model,
        region=query.region,
        from_time=asked_time(query.from_, "from"),
        to_time=asked_time(query.to, "to"),
    )


def _row(row: pb.UsageRow, groups: frozenset[pb.GroupBy.ValueType]) -> schemas.UsageRow:
    cost = whole_number(row.cost_picodollars)
    timed = pb.GROUP_BY_HOUR in groups or pb.GROUP_BY_DAY in groups
    return schemas.UsageRow(
        org_id=row.org_id if pb.GROUP_BY_ORG in groups else UNSET,
        environment_id=row.environment_id if pb.GROUP_BY_ENVIRONMENT in groups else UNSET,
        key_id=row.api_key_id if pb.GROUP_BY_API_KEY in groups else UNSET,
        model=row.model if pb.GROUP_BY_MODEL in groups else UNSET,
        region=row.region if pb.GROUP_BY_REGION in groups else UNSET,
        time=time(row.time) if timed else UNSET,
        requests=row.requests,
        prompt_tokens=row.prompt_tokens,
        cached_prompt_tokens=row.cached_prompt_tokens,
        completion_tokens=row.completion_tokens,
        total_tokens=row.prompt_tokens + row.completion_tokens,
        cost_picodollars=cost,
        cost_usd=usd(cost),
    )


def usage_record(stored: pb.StoredUsageRecord) -> schemas.UsageRecord:
    """A record as the ledger has it."""
    record, context, tokens = stored.record, stored.record.context, stored.record.usage
    cost = whole_number(stored.cost_picodollars)
    return schemas.UsageRecord(
        request_id=context.request_id,
        org_id=context.org_id,
        environment_id=context.environment_id,
        key_id=context.api_key_id,
        model=context.model,
        region=context.region,
        node_id=context.node_id,
        api=context.api,
        stream=context.stream,
        start_time=microseconds(context.start_time_unix_us),
        outcome=_OUTCOMES.get(record.outcome, "unspecified"),
        http_status=record.http_status,
        prompt_tokens=tokens.prompt_tokens,
        cached_prompt_tokens=tokens.cached_prompt_tokens,
        completion_tokens=tokens.completion_tokens,
        total_tokens=tokens.prompt_tokens + tokens.completion_tokens,
        count_source=_SOURCES.get(tokens.source, "unspecified"),
        prompt_price_picodollars=context.prompt_price_picodollars,
        completion_price_picodollars=context.completion_price_picodollars,
        cost_picodollars=cost,
        cost_usd=usd(cost),
        latency_us=record.latency_us,
        time_to_first_token_us=record.time_to_first_token_us,
        record_time=time(stored.record_time),
        from_witness=stored.from_witness,
        cached_prompt_price_picodollars=(
            context.cached_prompt_price_picodollars if context.HasField("cached_prompt_price_picodollars") else None
        ),
        price_version=text_or_none(context.price_version),
        plan=text_or_none(context.plan),
        attempts=max(record.attempts, 1),
        failed_over=record.failed_over,
        region_failover=record.region_failover,
        resumed=record.resumed,
        revision=stored.revision,
        billed=stored.billed,
    )

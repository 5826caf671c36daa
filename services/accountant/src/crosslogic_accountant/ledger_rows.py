"""Rows of the ledger, read back."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from crosslogic_accountant.domain import Counts, LedgerRow, Terms, UsageRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

COLUMNS = (
    "request_id",
    "revision",
    "corrects",
    "requests",
    "from_witness",
    "stream",
    "count_source",
    "outcome",
    "http_status",
    "prompt_tokens",
    "cached_prompt_tokens",
    "completion_tokens",
    "start_time",
    "latency_us",
    "time_to_first_token_us",
    "cost_picodollars",
    "prompt_price_picodollars",
    "completion_price_picodollars",
    "max_total_tokens",
    "org_id",
    "environment_id",
    "api_key_id",
    "model",
    "api",
    "region",
    "node_id",
    "cached_prompt_price_picodollars",
    "price_version",
    "plan",
    "attempts",
    "failed_over",
    "region_failover",
    "resumed",
)


def selected(table: str) -> str:
    """The columns that `ledger_row` reads, of `table`."""
    return ", ".join(f"{table}.{name}" for name in COLUMNS)


def ledger_row(values: tuple[Any, ...]) -> LedgerRow:
    """One row: `values` are those of COLUMNS. A reversal's amounts come back as those of what it reverses."""
    (
        request_id,
        revision,
        corrects,
        requests,
        from_witness,
        stream,
        count_source,
        outcome,
        http_status,
        prompt_tokens,
        cached_prompt_tokens,
        completion_tokens,
        start_time,
        latency_us,
        time_to_first_token_us,
        cost,
        prompt_price,
        completion_price,
        max_total_tokens,
        org_id,
        environment_id,
        api_key_id,
        model,
        api,
        region,
        node_id,
        cached_prompt_price,
        price_version,
        plan,
        attempts,
        failed_over,
        region_failover,
        resumed,
    ) = values
    record = UsageRecord(
        request_id=_bytes(request_id),
        terms=Terms(
            org_id=_bytes(org_id),
            environment_id=_bytes(environment_id),
            api_key_id=_bytes(api_key_id),
            model=model,
            api=api,
            region=region,
            node_id=node_id,
            prompt_price_picodollars=prompt_price,
            completion_price_picodollars=completion_price,
            max_total_tokens=max_total_tokens,
            cached_prompt_price_picodollars=cached_prompt_price,
            price_version=price_version,
            plan=plan,
        ),
        counts=Counts(
            requests * prompt_tokens, requests * cached_prompt_tokens, requests * completion_tokens, count_source
        ),
        start_time_us=time_us(start_time),
        stream=stream,
        outcome=outcome,
        latency_us=latency_us,
        time_to_first_token_us=time_to_first_token_us,
        http_status=http_status,
        cost_picodollars=requests * int(Decimal(cost)),
        from_witness=from_witness,
        attempts=attempts,
        failed_over=failed_over,
        region_failover=region_failover,
        resumed=resumed,
    )
    return LedgerRow(record, revision=revision, corrects=corrects, requests=requests)


def time_us(value: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    return (value - _EPOCH) // _MICROSECOND


def _bytes(value: UUID) -> bytes:
    return value.bytes

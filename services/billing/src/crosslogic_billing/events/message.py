"""A row of the usage ledger as others consume it: JSON whose fields only ever grow."""

from typing import Any

import msgspec

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb

_OUTCOMES = {
    common_pb.OUTCOME_SUCCEEDED: "succeeded",
    common_pb.OUTCOME_CLIENT_DISCONNECTED: "client_disconnected",
    common_pb.OUTCOME_FAILED: "failed",
    common_pb.OUTCOME_TIMED_OUT: "timed_out",
}


def key(entry: pb.LedgerEntry) -> bytes:
    """The request's id: all rows of one request are in one partition, in order."""
    return entry.record.context.request_id.encode()


def value(entry: pb.LedgerEntry) -> bytes:
    """One row. `request_id`, `revision` and `requests` together are unique: a repetition can be told by them."""
    record = entry.record
    context, usage = record.context, record.usage
    message: dict[str, Any] = {
        "request_id": context.request_id,
        "sequence": entry.sequence,
        "revision": entry.revision,
        "requests": entry.requests,
        "corrects": entry.corrects if entry.HasField("corrects") else None,
        "org_id": context.org_id,
        "environment_id": context.environment_id,
        "api_key_id": context.api_key_id,
        "model": context.model,
        "region": context.region,
        "api": context.api,
        "plan": context.plan,
        "stream": context.stream,
        "start_time_unix_us": context.start_time_unix_us,
        "outcome": _OUTCOMES.get(record.outcome, "unknown"),
        "http_status": record.http_status,
        "prompt_tokens": usage.prompt_tokens,
        "cached_prompt_tokens": usage.cached_prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "latency_us": record.latency_us,
        "time_to_first_token_us": record.time_to_first_token_us,
        "price_version": context.price_version,
        # As text: JSON's numbers are floats to many who read them.
        "cost_picodollars": entry.cost_picodollars or "0",
        "failed_over": record.failed_over,
        "region_failover": record.region_failover,
        "from_witness": entry.from_witness,
    }
    return msgspec.json.encode(message)

"""Usage records and witnesses as gateways and nodes send them."""

import time
from uuid import UUID

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.ports import PreparedRecord
from crosslogic_accountant.record_reader import RecordReader
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.seal import Sealer

ORG = "0190a000-0000-7000-8000-00000000000a"
ENVIRONMENT = "0190a000-0000-7000-8000-00000000000b"
API_KEY = "0190a000-0000-7000-8000-00000000000c"
NODE = "0190a000-0000-7000-8000-00000000000d"
SEAL_KEY = bytes(range(32))
IDS = Uuid7Source()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def sample_context(**changes: object) -> pb.RequestContext:
    context = pb.RequestContext(
        request_id=str(IDS.next()),
        org_id=ORG,
        environment_id=ENVIRONMENT,
        api_key_id=API_KEY,
        model="llama-3-8b",
        start_time_unix_us=time.time_ns() // 1000,
        prompt_price_picodollars=50_000,
        completion_price_picodollars=70_000,
        api="/v1/chat/completions",
        stream=True,
        region="eu",
        node_id=NODE,
        max_total_tokens=8192,
    )
    for name, value in changes.items():
        setattr(context, name, value)
    return context


def sample_usage(prompt: int = 100, completion: int = 20, cached: int = 0) -> common_pb.TokenUsage:
    return common_pb.TokenUsage(
        prompt_tokens=prompt,
        cached_prompt_tokens=cached,
        completion_tokens=completion,
        source=common_pb.COUNT_SOURCE_ENGINE_FINAL,
    )


def sample_record(
    context: pb.RequestContext | None = None,
    usage: common_pb.TokenUsage | None = None,
    outcome: common_pb.Outcome.ValueType = common_pb.OUTCOME_SUCCEEDED,
) -> pb.UsageRecord:
    return pb.UsageRecord(
        context=context or sample_context(),
        usage=usage or sample_usage(),
        outcome=outcome,
        latency_us=250_000,
        time_to_first_token_us=30_000,
        http_status=200,
        attempts=1,
    )


def sample_witness(
    context: pb.RequestContext,
    usage: common_pb.TokenUsage | None = None,
    *,
    outcome: common_pb.Outcome.ValueType = common_pb.OUTCOME_SUCCEEDED,
    node_id: str = "",
    key: bytes = SEAL_KEY,
) -> pb.Witness:
    node_id = node_id or context.node_id
    return pb.Witness(
        sealed_context=Sealer(key).seal(context.SerializeToString(), aad=node_id.encode()),
        usage=usage or sample_usage(),
        outcome=outcome,
        node_id=node_id,
        duration_us=200_000,
    )


def prepared(message: pb.UsageRecord) -> PreparedRecord:
    record = RecordReader(now_ms=now_ms).read(message)
    return PreparedRecord(record, usage_row(LedgerRow(record)))


def request_uuid(message: pb.UsageRecord) -> UUID:
    return UUID(message.context.request_id)

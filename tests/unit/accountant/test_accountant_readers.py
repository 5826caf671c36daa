"""What gateways and nodes say is checked before it becomes money."""

from collections.abc import Callable
from uuid import UUID

import pytest

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2 as common_pb
from crosslogic_accountant.record_reader import RecordReader, WitnessReader
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import floor
from crosslogic_common.seal import Sealer
from tests.fakes.accountant_samples import (
    NODE,
    SEAL_KEY,
    now_ms,
    sample_context,
    sample_record,
    sample_usage,
    sample_witness,
)


def set_context(name: str, value: object) -> Callable[[pb.UsageRecord], None]:
    return lambda message: setattr(message.context, name, value)


def set_usage(name: str, value: object) -> Callable[[pb.UsageRecord], None]:
    return lambda message: setattr(message.usage, name, value)


def set_record(name: str, value: object) -> Callable[[pb.UsageRecord], None]:
    return lambda message: setattr(message, name, value)


def id_of_time(millis: int) -> str:
    return str(UUID(int=floor(millis).int | 7 << 76 | 2 << 62))


BAD: dict[str, Callable[[pb.UsageRecord], None]] = {
    "no id": set_context("request_id", ""),
    "not a UUID": set_context("request_id", "x" * 36),
    "a UUIDv4": set_context("request_id", "5c1f3b0e-6c67-4f0e-9d3e-1d8b7e1f9a10"),
    "an old id": set_context("request_id", id_of_time(now_ms() - 36 * 86_400_000)),
    "an id from the future": set_context("request_id", id_of_time(now_ms() + 2 * 86_400_000)),
    "an org that is no UUID": set_context("org_id", "acme"),
    "no key": set_context("api_key_id", ""),
    "no environment": set_context("environment_id", ""),
    "no model": set_context("model", ""),
    "a zero byte in the model": set_context("model", "a\0b"),
    "a zero byte in the region": set_context("region", "a\0b"),
    "an endless node": set_context("node_id", "n" * 257),
    "an impossible price": set_context("prompt_price_picodollars", 10**12 + 1),
    "an impossible completion price": set_context("completion_price_picodollars", 2**64 - 1),
    "no start time": set_context("start_time_unix_us", 0),
    "a start time before time": set_context("start_time_unix_us", -(2**63)),
    "a start time beyond time": set_context("start_time_unix_us", 2**63 - 1),
    "too many prompt tokens": set_usage("prompt_tokens", 2**31),
    "too many completion tokens": set_usage("completion_tokens", 2**32 - 1),
    "more cached than there were": set_usage("cached_prompt_tokens", 101),
    "an unknown source": set_usage("source", 0),
    "no outcome": set_record("outcome", 0),
    "an outcome of tomorrow": set_record("outcome", 9),
    "an endless request": set_record("latency_us", 2**64 - 1),
    "an endless first token": set_record("time_to_first_token_us", 2**63),
    "an impossible status": set_record("http_status", 2**32 - 1),
}


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD.keys())
def test_a_record_that_makes_no_sense_is_refused_for_good(spoil: Callable[[pb.UsageRecord], None]) -> None:
    message = sample_record()
    spoil(message)
    with pytest.raises(CodedError) as caught:
        RecordReader(now_ms=now_ms).read(message)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_what_is_remembered_of_tenants_has_a_bound() -> None:
    reader = RecordReader(now_ms=now_ms, max_remembered=10)
    for number in range(100):
        assert reader.read(sample_record(sample_context(model=f"model-{number}"))).terms.model == f"model-{number}"
        assert len(reader._terms) <= 10


def test_two_prices_of_one_tenant_are_not_mixed_up() -> None:
    reader = RecordReader(now_ms=now_ms)
    cheap = reader.read(sample_record(sample_context(completion_price_picodollars=1)))
    dear = reader.read(sample_record(sample_context(completion_price_picodollars=2)))
    assert dear.cost_picodollars - cheap.cost_picodollars == 20


def read_witness(message: pb.Witness) -> object:
    return WitnessReader(sealer=Sealer(SEAL_KEY), now_ms=now_ms).read(message)


def test_a_node_cannot_charge_with_a_seal_it_made_itself() -> None:
    with pytest.raises(CodedError, match="seal"):
        read_witness(sample_witness(sample_context(), key=bytes(32)))


def test_a_node_cannot_charge_for_a_request_that_went_to_another_node() -> None:
    stolen = sample_witness(sample_context())
    stolen.node_id = "another-node"
    with pytest.raises(CodedError, match="seal"):
        read_witness(stolen)
    with pytest.raises(CodedError, match="another node"):
        read_witness(sample_witness(sample_context(node_id=NODE), node_id="another-node"))


def test_a_node_cannot_count_more_than_the_request_could_use() -> None:
    context = sample_context(max_total_tokens=100)
    read_witness(sample_witness(context, sample_usage(80, 20)))
    with pytest.raises(CodedError, match="More tokens"):
        read_witness(sample_witness(context, sample_usage(80, 21)))


def test_a_witness_cut_short_or_of_other_bytes_is_refused() -> None:
    whole = sample_witness(sample_context())
    for spoiled in (b"", whole.sealed_context[:-1], whole.sealed_context[:11], bytes(100)):
        with pytest.raises(CodedError):
            read_witness(
                pb.Witness(sealed_context=spoiled, usage=whole.usage, outcome=common_pb.OUTCOME_SUCCEEDED, node_id=NODE)
            )
    garbage = Sealer(SEAL_KEY).seal(b"\xff\xff\xff", aad=NODE.encode())
    with pytest.raises(CodedError, match="RequestContext"):
        read_witness(
            pb.Witness(sealed_context=garbage, usage=whole.usage, outcome=common_pb.OUTCOME_SUCCEEDED, node_id=NODE)
        )


def test_a_witness_without_counts_or_outcome_is_refused() -> None:
    context = sample_context()
    with pytest.raises(CodedError, match="outcome"):
        read_witness(sample_witness(context, outcome=common_pb.OUTCOME_UNSPECIFIED))
    with pytest.raises(CodedError, match="source"):
        read_witness(sample_witness(context, common_pb.TokenUsage(prompt_tokens=1)))

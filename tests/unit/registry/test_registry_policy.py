"""The registry's decisions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_registry import policy
from crosslogic_registry.domain import STATUSES, Status
from tests.fakes.registry_world import facts

statuses = st.sampled_from(STATUSES)


@given(st.lists(statuses, max_size=30), st.integers(0, 30))
def test_after_an_operators_drain_a_node_never_takes_requests_again(said: list[Status], drained_at: int) -> None:
    status: Status = "registering"
    for step, word in enumerate(said):
        status = policy.next_status(status, word, drain_asked=step >= drained_at)
        if step >= drained_at and word in ("active", "warming"):
            assert status == "draining"


@given(st.lists(statuses, max_size=30))
def test_nobody_goes_back_to_registering(said: list[Status]) -> None:
    status: Status = "registering"
    for word in said:
        before, status = status, policy.next_status(status, word, drain_asked=False)
        assert status in STATUSES
        assert status != "registering" or before == "registering"
        # Its own word counts: but for `registering`, a node is what it says it is.
        assert word in (status, "registering")


@given(statuses, statuses, st.booleans())
def test_the_same_word_twice_changes_nothing_more(current: Status, said: Status, drain: bool) -> None:
    once = policy.next_status(current, said, drain_asked=drain)
    assert policy.next_status(once, said, drain_asked=drain) == once


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", "nohost"),
        ("address", "10.0.0.1:9000\n"),
        ("region", "US East"),
        ("region", "-us"),
        ("models", ["a" * 201]),
        ("models", [f"m{number}" for number in range(65)]),
        ("engine", "v" * 201),
        ("engine_paths", ["/x\x00"]),
        ("max_tokens_per_sec", math.nan),
        ("decode_tokens_per_sec", -1.0),
        ("prefill_tokens_per_sec", math.inf),
    ],
)
def test_facts_that_would_mislead_schedulers_are_refused(field: str, value: object) -> None:
    said = facts()
    said.ClearField(field)  # type: ignore[arg-type]
    said.MergeFrom(pb.NodeFacts(**{field: value}))  # type: ignore[arg-type]
    with pytest.raises(CodedError) as refused:
        policy.check_facts(said)
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "load", [{"current_tokens_per_sec": math.nan}, {"kv_cache_usage": 1.5}, {"kv_cache_usage": -1}]
)
def test_a_load_that_is_no_number_never_reaches_the_picker(load: dict[str, float]) -> None:
    with pytest.raises(CodedError):
        policy.check_load(pb.NodeLoad(**load))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model",
    [
        pb.Model(name="", context_length=1),
        pb.Model(name="a\n", context_length=1),
        pb.Model(name="m", context_length=0),
        pb.Model(name="m", context_length=10_000_001),
        pb.Model(name="m", context_length=1, prompt_price_picodollars=10**12 + 1),
        pb.Model(name="m", context_length=1, completion_price_picodollars=2**64 - 1),
        pb.Model(name="m", context_length=1, vram_required_bytes=2**63),
        pb.Model(name="m", context_length=1, regions=["Nowhere!"]),
        pb.Model(name="m", context_length=1, regions=[f"r{number}" for number in range(101)]),
        pb.Model(name="m", context_length=1, family="f\x00"),
    ],
)
def test_a_model_that_could_not_be_priced_or_stored_is_refused(model: pb.Model) -> None:
    with pytest.raises(CodedError) as refused:
        policy.check_model(model)
    assert refused.value.code == ErrorCode.INVALID_ARGUMENT


@given(st.text(max_size=2000))
def test_a_nodes_own_words_fit_a_log_line(text: str) -> None:
    said = policy.short_reason(text)
    assert len(said) <= policy.MAX_REASON_CHARS
    assert said.isprintable()

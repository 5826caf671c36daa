"""Witnesses on their way to the accountant."""

import asyncio

import pytest

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_registry.observations import Observations
from crosslogic_registry.witnesses import MAX_CALLS, MAX_WITNESS_BYTES, AccountantAwayError, WitnessForwarder
from tests.fakes.registry_world import FakeWitnessSink


def forwarder_of(sink: FakeWitnessSink, *, patience_s: float = 5.0, max_waiting: int = 20_000) -> WitnessForwarder:
    return WitnessForwarder(
        sink=sink,
        observations=Observations(),
        patience_s=patience_s,
        max_waiting=max_waiting,
        backoff_cap_s=0.01,
    )


def witness(text: str, node_id: str = "") -> pb.Witness:
    return pb.Witness(sealed_context=text.encode(), node_id=node_id)


async def test_a_node_cannot_speak_in_anothers_name() -> None:
    sink = FakeWitnessSink()
    forwarder = forwarder_of(sink)
    async with forwarder.running():
        assert await forwarder.forward("node-a", [witness("1", node_id="node-b")]) == [""]
    assert [[sent.node_id for sent in call] for call in sink.calls] == [["node-a"]]


async def test_witnesses_of_all_nodes_gather_while_calls_are_under_way() -> None:
    sink = FakeWitnessSink()
    sink.open.clear()
    forwarder = forwarder_of(sink)
    async with forwarder.running():
        waiting = []
        for number in range(200):
            waiting.append(asyncio.create_task(forwarder.forward(f"node-{number}", [witness(str(number))])))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        sink.open.set()
        assert await asyncio.gather(*waiting) == [[""]] * 200
    assert len(sink.calls) <= 2 * MAX_CALLS
    assert sorted(int(sent.sealed_context) for call in sink.calls for sent in call) == list(range(200))


async def test_nothing_is_acknowledged_before_the_accountant_says_it_is_durable() -> None:
    sink = FakeWitnessSink()
    sink.error = CodedError(ErrorCode.UNAVAILABLE)
    forwarder = forwarder_of(sink)
    async with forwarder.running():
        waiting = asyncio.create_task(forwarder.forward("a", [witness("1"), witness("2")]))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert len(sink.calls) > 1
        sink.error = None
        assert await waiting == ["", ""]


async def test_while_the_accountant_is_away_the_node_keeps_its_witnesses_and_is_not_told_that_they_are_refused() -> (
    None
):
    sink = FakeWitnessSink()
    sink.error = CodedError(ErrorCode.UNAVAILABLE)
    forwarder = forwarder_of(sink, patience_s=0.03)
    async with forwarder.running():
        with pytest.raises(AccountantAwayError):
            await forwarder.forward("a", [witness("1")])
        sink.error = None
        await asyncio.sleep(0.03)
        sink.calls.clear()
        assert await forwarder.forward("a", [witness("1")]) == [""]
    assert [len(call) for call in sink.calls] == [1]


async def test_waiting_witnesses_are_bounded() -> None:
    sink = FakeWitnessSink()
    sink.open.clear()
    forwarder = forwarder_of(sink, max_waiting=10)
    async with forwarder.running():
        waiting = []
        for _ in range(MAX_CALLS + 10):
            waiting.append(asyncio.create_task(forwarder.forward("a", [witness("1")])))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        with pytest.raises(AccountantAwayError):
            await forwarder.forward("a", [witness("1")])
        sink.open.set()
        await asyncio.gather(*waiting)


async def test_one_poisoned_witness_is_refused_alone_and_holds_up_nobody() -> None:
    sink = FakeWitnessSink()
    sink.poison, sink.poison_error = b"7", CodedError(ErrorCode.INVALID_ARGUMENT)
    forwarder = forwarder_of(sink)
    async with forwarder.running():
        answers = await forwarder.forward("a", [witness(str(number)) for number in range(20)])
    assert answers == ["INVALID_ARGUMENT" if number == 7 else "" for number in range(20)]


async def test_the_accountants_refusal_reaches_the_node_that_sent_the_witness() -> None:
    sink = FakeWitnessSink()
    sink.refuse = {b"1": "not ours"}
    forwarder = forwarder_of(sink)
    async with forwarder.running():
        assert await forwarder.forward("a", [witness("0"), witness("1")]) == ["", "not ours"]


async def test_a_witness_of_a_megabyte_is_refused_for_good() -> None:
    sink = FakeWitnessSink()
    forwarder = forwarder_of(sink)
    async with forwarder.running():
        [refused, taken] = await forwarder.forward("a", [witness("x" * MAX_WITNESS_BYTES), witness("1")])
    assert "at most" in refused
    assert taken == ""
    assert [len(call) for call in sink.calls] == [1]

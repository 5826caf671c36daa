"""What the hot path writes by hand is what protobuf would have written."""

from hypothesis import given
from hypothesis import strategies as st

from crosslogic.scheduler.v1 import scheduler_pb2 as pb
from crosslogic_common.wire import repeated_calls, repeated_messages, varint

CALLS = st.lists(st.tuples(st.integers(1, 2**64 - 1), st.text(max_size=200)), max_size=20)


@given(CALLS)
def test_calls_written_by_hand_are_read_as_calls(calls: list[tuple[int, str]]) -> None:
    requests = [(call_id, pb.PickRequest(model=model)) for call_id, model in calls]
    by_hand = repeated_calls([(call_id, request.SerializeToString()) for call_id, request in requests])
    message = pb.PickStreamRequest(
        calls=[pb.PickStreamCall(id=call_id, request=request) for call_id, request in requests]
    )
    assert pb.PickStreamRequest.FromString(by_hand) == message


@given(CALLS)
def test_joined_messages_are_the_repeated_field(calls: list[tuple[int, str]]) -> None:
    parts = [pb.PickStreamCall(id=call_id, request=pb.PickRequest(model=model)) for call_id, model in calls]
    by_hand = repeated_messages([part.SerializeToString() for part in parts])
    assert by_hand == pb.PickStreamRequest(calls=parts).SerializeToString()


@given(st.integers(1, 2**64 - 1))
def test_varint_is_protobufs(value: int) -> None:
    assert b"\x08" + varint(value) == pb.PickStreamCall(id=value).SerializeToString()

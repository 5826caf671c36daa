"""Meter events, protobuf to domain and back."""

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_billing.export.domain import MeterEvent, State
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import bad_token, unwrap, wrap

_STATES: dict[State, "pb.MeterEventState.ValueType"] = {
    "pending": pb.METER_EVENT_STATE_PENDING,
    "delivered": pb.METER_EVENT_STATE_DELIVERED,
    "dead": pb.METER_EVENT_STATE_DEAD,
}
_ASKED: dict[int, State | None] = {0: None, **{number: state for state, number in _STATES.items()}}
_LARGEST_ID = 2**63 - 1


def meter_event(event: MeterEvent) -> pb.MeterEvent:
    """An event in the contract's words."""
    return pb.MeterEvent(
        id=event.id,
        identifier=event.identifier,
        org_id=event.org_id,
        customer_id=event.customer_id,
        event_name=event.event_name,
        value=event.value,
        window_start=timestamp(event.window_start),
        revision=event.revision,
        state=_STATES[event.state],
        delivered_how=event.delivered_how or "",
        attempts=event.attempts,
        last_error=event.last_error,
        create_time=timestamp(event.created_at),
        deliver_time=None if event.delivered_at is None else timestamp(event.delivered_at),
    )


def asked_state(number: int) -> State | None:
    """The state asked for; None: any. Raises INVALID_ARGUMENT."""
    if number not in _ASKED:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`state` is not known.", param="state")
    return _ASKED[number]


def event_id(number: int) -> int:
    """An event's number. Raises NOT_FOUND for one that none can have."""
    if not 1 <= number <= _LARGEST_ID:
        raise CodedError(ErrorCode.NOT_FOUND)
    return number


def after_of(token: str) -> int:
    """The number after which a page starts. Raises INVALID_ARGUMENT."""
    if not token:
        return 0
    text = unwrap(token)
    if not text.isascii() or not text.isdecimal() or int(text) > _LARGEST_ID:
        raise bad_token()
    return int(text)


def next_token(events: list[MeterEvent], limit: int) -> str:
    """The token of the next page, of a list that was read with one event more."""
    return wrap(str(events[limit - 1].id)) if len(events) > limit else ""

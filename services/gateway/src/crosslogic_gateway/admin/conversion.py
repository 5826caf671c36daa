"""Protobuf's ways of saying things as JSON's."""

import re
from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import UNSET, UnsetType

from crosslogic_common import clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin.decoding import field_error

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time(value: Timestamp) -> datetime:
    """A time, exact to the microsecond."""
    return value.ToDatetime(tzinfo=UTC)


def optional_time(message: Message, field: str) -> datetime | None:
    """The time in `field`; None when it is unset."""
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    return time(value)


def microseconds(value: int) -> datetime:
    """A time from microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=value)


def text_or_none(text: str) -> str | None:
    """None for an empty text."""
    return text or None


def asked_time(text: str | UnsetType, field: str) -> Timestamp | None:
    """The time of a query parameter; None when it is not given. Raises INVALID_ARGUMENT."""
    if text is UNSET:
        return None
    if not _RFC3339.fullmatch(text):
        raise _no_time(field)
    try:
        parsed = datetime.fromisoformat(text.upper())
    except ValueError:
        raise _no_time(field) from None
    return timestamp(parsed, field)


def timestamp(value: datetime, field: str) -> Timestamp:
    """A time for a neighbour. Raises INVALID_ARGUMENT that names `field`: before 1970, or past the year 9999 in UTC."""
    try:
        utc = value.astimezone(UTC)
    except OverflowError:
        raise _no_time(field) from None
    if utc < _EPOCH:
        raise _no_time(field)
    return clock.timestamp(utc)


def _no_time(field: str) -> CodedError:
    return field_error(
        field, "expected an RFC 3339 time since 1970 such as `2026-01-31T00:00:00Z` (in a query, write `+` as `%2B`)"
    )


def whole_number(digits: str) -> int:
    """A number that a neighbour sent in decimal digits. Raises INTERNAL when it is none."""
    if not re.fullmatch(r"-?[0-9]{1,60}", digits, re.ASCII):
        raise CodedError(ErrorCode.INTERNAL, private=f"no whole number: {digits[:80]!r}")
    return int(digits)

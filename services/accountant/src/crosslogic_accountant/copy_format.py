"""Rows in PostgreSQL's binary COPY format, packed by hand: this is most of what a record costs this process.

The format (PostgreSQL manual, COPY, "Binary Format"): a signature, flags and header extension length; for each row a
16-bit count of fields and each field as a 32-bit length and its bytes, big-endian; a trailer of -1. Timestamps are
microseconds since 2000-01-01; a numeric is base-10000 digits behind (count, weight, sign, scale).
"""

import struct
from collections.abc import Iterable
from functools import lru_cache

from crosslogic_accountant.domain import LedgerRow, Terms, Witness

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
USAGE_COLUMNS = (
    "request_id, revision, corrects, requests, from_witness, stream, count_source, outcome, http_status, "
    "prompt_tokens, cached_prompt_tokens, completion_tokens, start_time, latency_us, time_to_first_token_us, "
    "cost_picodollars, prompt_price_picodollars, completion_price_picodollars, max_total_tokens, org_id, "
    "environment_id, api_key_id, model, api, region, node_id, cached_prompt_price_picodollars, price_version, plan, "
    "attempts, failed_over, region_failover, resumed"
)
WITNESS_COLUMNS = (
    "slot, outcome, count_source, prompt_tokens, cached_prompt_tokens, completion_tokens, duration_us, request_id, "
    "node_id, context"
)

_EPOCH_2000_US = 946_684_800_000_000
_NUMERIC_BASE = 10_000
_NUMERIC_NEGATIVE = 0x4000
_NULL = b"\xff\xff\xff\xff"

# count, request_id, revision
_ROW_START = struct.Struct("!h i16s ih")
# requests, from_witness, stream, count_source, outcome, http_status, 3 x tokens, start_time, latency, first token
_ROW_MIDDLE = struct.Struct("!ih i? i? ih ih ih ii ii ii iq iq iq")
# 2 x price, bound, 3 x id
_TERMS = struct.Struct("!iq iq iq i16s i16s i16s")
# attempts, failed_over, region_failover, resumed
_ROW_END = struct.Struct("!ih i? i? i?")
_SMALLINT = struct.Struct("!ih")
_BIGINT = struct.Struct("!iq")
_WITNESS = struct.Struct("!h ih ih ih ii ii ii iq i16s")
_LENGTH = struct.Struct("!i")
_NUMERIC_HEAD = struct.Struct("!ihhHh")


def usage_row(row: LedgerRow) -> bytes:
    """One row of `usage_records`. Raises struct.error for a value that its column cannot hold."""
    record = row.record
    counts = record.counts
    sign = row.requests
    return b"".join(
        (
            _ROW_START.pack(33, 16, record.request_id, 2, row.revision),
            _NULL if row.corrects is None else _SMALLINT.pack(2, row.corrects),
            _ROW_MIDDLE.pack(
                *(2, sign, 1, record.from_witness, 1, record.stream),
                *(2, counts.source, 2, record.outcome, 2, record.http_status),
                *(4, sign * counts.prompt_tokens, 4, sign * counts.cached_prompt_tokens),
                *(4, sign * counts.completion_tokens, 8, record.start_time_us - _EPOCH_2000_US),
                *(8, record.latency_us, 8, record.time_to_first_token_us),
            ),
            numeric(sign * record.cost_picodollars),
            _terms(record.terms),
            _ROW_END.pack(
                *(2, record.attempts, 1, record.failed_over, 1, record.region_failover, 1, record.resumed),
            ),
        )
    )


def witness_row(witness: Witness, slot: int) -> bytes:
    """One row of `witnesses`."""
    counts = witness.counts
    return b"".join(
        (
            _WITNESS.pack(
                *(10, 2, slot, 2, witness.outcome, 2, counts.source, 4, counts.prompt_tokens),
                *(4, counts.cached_prompt_tokens, 4, counts.completion_tokens, 8, witness.duration_us),
                *(16, witness.request_id),
            ),
            _text(witness.node_id),
            _LENGTH.pack(len(witness.context)),
            witness.context,
        )
    )


def copy_data(rows: Iterable[bytes]) -> bytes:
    """What is sent for these rows."""
    return b"".join((HEADER, *rows, TRAILER))


def numeric(value: int) -> bytes:
    """A whole number as a field of type numeric."""
    sign = 0
    if value < 0:
        sign = _NUMERIC_NEGATIVE
        value = -value
    digits: list[int] = []
    while value:
        value, digit = divmod(value, _NUMERIC_BASE)
        digits.append(digit)
    digits.reverse()
    count = len(digits)
    return _NUMERIC_HEAD.pack(8 + 2 * count, count, max(count - 1, 0), sign, 0) + struct.pack(f"!{count}h", *digits)


@lru_cache(maxsize=10_000)
def _terms(terms: Terms) -> bytes:
    return b"".join(
        (
            _TERMS.pack(
                *(8, terms.prompt_price_picodollars, 8, terms.completion_price_picodollars, 8, terms.max_total_tokens),
                *(16, terms.org_id, 16, terms.environment_id, 16, terms.api_key_id),
            ),
            _text(terms.model),
            _text(terms.api),
            _text(terms.region),
            _text(terms.node_id),
            _NULL
            if terms.cached_prompt_price_picodollars is None
            else _BIGINT.pack(8, terms.cached_prompt_price_picodollars),
            _text(terms.price_version),
            _text(terms.plan),
        )
    )


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded

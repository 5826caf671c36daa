"""Corrections: what stands is reversed and replaced by further rows; nothing is changed."""

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import psycopg

from crosslogic_accountant import policy
from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.domain import Counts, LedgerRow, UsageRecord
from crosslogic_accountant.ledger_rows import ledger_row, selected
from crosslogic_accountant.ledger_store import copy_usage
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.postgres import Connection, Pool, transaction

_STANDING = (
    f"SELECT {selected('u')} FROM usage_records u "  # our own column names
    "WHERE u.request_id = %s ORDER BY u.revision DESC LIMIT 1"
)
_REPLACEMENT = (
    f"SELECT u.record_time, {selected('u')} FROM usage_records u "  # our own column names
    "WHERE u.request_id = %s AND u.revision = %s"
)
_ATTEMPTS = 3
_MAX_REVISION = 32_000


@dataclass(frozen=True, slots=True)
class Correction:
    """What somebody wants to stand in the place of a record. None: as it stands."""

    correction_id: UUID
    request_id: UUID
    expected_revision: int
    reason: str
    author: str
    counts: Counts | None = None
    outcome: int | None = None
    prompt_price_picodollars: int | None = None
    completion_price_picodollars: int | None = None
    cached_prompt_price_picodollars: int | None = None
    price_version: str | None = None


@dataclass(frozen=True, slots=True)
class Corrected:
    """What stands now."""

    row: LedgerRow
    record_time: datetime
    duplicate: bool


class Corrections:
    """Writes corrections."""

    def __init__(self, *, pool: Pool) -> None:
        self._pool = pool

    async def correct(self, correction: Correction) -> Corrected:
        """Makes it, or finds that it was made. Raises NOT_FOUND, CONFLICT, INVALID_ARGUMENT, UNAVAILABLE."""
        for _ in range(_ATTEMPTS):
            try:
                async with transaction(self._pool) as connection:
                    return await self._correct(connection, correction)
            except psycopg.errors.UniqueViolation:
                # Somebody corrected the same record, or sent the same correction, at this moment: look again.
                continue
        raise CodedError(ErrorCode.UNAVAILABLE, private="others kept correcting the record", retry_after_s=1.0)

    async def _correct(self, connection: Connection, correction: Correction) -> Corrected:
        cursor = await connection.execute(
            "SELECT request_id, revision FROM corrections WHERE correction_id = %s", (correction.correction_id,)
        )
        made = await cursor.fetchone()
        if made is not None:
            if made[0] != correction.request_id:
                raise CodedError(ErrorCode.CONFLICT, "That id belongs to another correction.", param="correction_id")
            return await self._replacement(connection, correction.request_id, int(made[1]), duplicate=True)
        cursor = await connection.execute(_STANDING.encode(), (correction.request_id,))
        row = await cursor.fetchone()
        if row is None:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no record of that request.", param="request_id")
        standing = ledger_row(row)
        if standing.revision != correction.expected_revision or standing.revision > _MAX_REVISION:
            raise CodedError(
                ErrorCode.CONFLICT,
                f"Revision {standing.revision} stands. Look at it and ask again.",
                param="expected_revision",
            )
        rows = policy.correction(standing, corrected(standing.record, correction))
        await connection.execute(
            "INSERT INTO corrections (correction_id, request_id, revision, reason, author) VALUES (%s, %s, %s, %s, %s)",
            (
                correction.correction_id,
                correction.request_id,
                rows[1].revision,
                correction.reason,
                correction.author,
            ),
        )
        await copy_usage(connection, [usage_row(each) for each in rows])
        return await self._replacement(connection, correction.request_id, rows[1].revision, duplicate=False)

    async def _replacement(
        self, connection: Connection, request_id: UUID, revision: int, *, duplicate: bool
    ) -> Corrected:
        cursor = await connection.execute(_REPLACEMENT.encode(), (request_id, revision))
        row = await cursor.fetchone()
        if row is None:
            raise CodedError(ErrorCode.NOT_FOUND, "That record is no longer kept.", param="request_id")
        return Corrected(ledger_row(row[1:]), row[0], duplicate)


def corrected(record: UsageRecord, correction: Correction) -> UsageRecord:
    """The record as the correction wants it, priced anew. Its sender is no longer a witness alone."""
    terms = record.terms
    changes = {
        name: value
        for name in (
            "prompt_price_picodollars",
            "completion_price_picodollars",
            "cached_prompt_price_picodollars",
            "price_version",
        )
        if (value := getattr(correction, name)) is not None
    }
    terms = replace(terms, **changes)
    counts = correction.counts or record.counts
    outcome = correction.outcome or record.outcome
    return replace(
        record,
        terms=terms,
        counts=counts,
        outcome=outcome,
        from_witness=False,
        cost_picodollars=policy.cost_picodollars(
            counts,
            outcome,
            terms.prompt_price_picodollars,
            terms.completion_price_picodollars,
            terms.cached_prompt_price_picodollars,
        ),
    )

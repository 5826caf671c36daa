"""The ledger in memory: the same decisions as the real store, and faults on demand."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from crosslogic_accountant import policy
from crosslogic_accountant.domain import LedgerRow
from crosslogic_accountant.policy import Verdict
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_common.errors import CodedError, ErrorCode


@dataclass
class MemoryLedger:
    """A BatchSink. `failures` says of the coming commits whether they fail before or after they became durable."""

    rows: dict[tuple[bytes, int], LedgerRow] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    refused_models: frozenset[str] = frozenset()
    batches: list[int] = field(default_factory=list)
    closed: bool = False

    async def commit(self, items: Sequence[PreparedRecord]) -> list[Stored | CodedError]:
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "before":
            raise CodedError(ErrorCode.UNAVAILABLE, private="the database is away")
        if failure == "fault":
            raise RuntimeError("a fault of ours")
        self.batches.append(len(items))
        answers = [self._store(item) for item in items]
        if failure == "after":
            raise CodedError(ErrorCode.UNAVAILABLE, private="the answer was lost")
        return answers

    async def close(self) -> None:
        self.closed = True

    def effective(self) -> dict[bytes, LedgerRow]:
        latest: dict[bytes, LedgerRow] = {}
        for (request_id, _), row in sorted(self.rows.items()):
            latest[request_id] = row
        return latest

    def _store(self, item: PreparedRecord) -> Stored | CodedError:
        record = item.record
        if record.terms.model in self.refused_models:
            return CodedError(ErrorCode.INVALID_ARGUMENT, "The record cannot be stored.")
        stored = self.effective().get(record.request_id)
        if stored is None:
            self.rows[record.request_id, 0] = LedgerRow(record)
            return Stored()
        if policy.judge(stored.record, record) is Verdict.CORRECT:
            for row in policy.correction(stored, record):
                self.rows[record.request_id, row.revision] = row
        return Stored(duplicate=True)

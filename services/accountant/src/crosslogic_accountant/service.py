"""What gateways and the registry ask for: records and witnesses, made durable."""

from collections.abc import Sequence
from struct import error as PackError  # noqa: N812  # the module calls its exception `error`
from uuid import UUID

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic_accountant import policy
from crosslogic_accountant.copy_format import usage_row
from crosslogic_accountant.domain import LedgerRow, Witness
from crosslogic_accountant.group_commit import GroupCommit
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.ports import PreparedRecord, Stored
from crosslogic_accountant.record_reader import RecordReader, WitnessReader
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger

Result = Stored | CodedError


class AccountantService:
    """Checks what comes in one by one, stores it together."""

    def __init__(
        self,
        *,
        records: GroupCommit[PreparedRecord, Stored],
        witnesses: GroupCommit[Witness, Stored],
        record_reader: RecordReader,
        witness_reader: WitnessReader,
        metrics: LedgerMetrics,
    ) -> None:
        self._records = records
        self._witnesses = witnesses
        self._record_reader = record_reader
        self._witness_reader = witness_reader
        self._metrics = metrics
        self._log = get_logger(__name__)

    async def record(self, messages: Sequence[pb.UsageRecord]) -> list[Result]:
        """What became of each record, once it is durable; an error refuses that one for good.

        Raises UNAVAILABLE when the process stops before they are durable.
        """
        results: list[Result | None] = []
        good: list[PreparedRecord] = []
        for message in messages:
            try:
                good.append(self._prepare(message))
                results.append(None)
            except CodedError as error:
                self._log.error("usage record refused", request_id=message.context.request_id[:64], reason=error.public)
                results.append(error)
        stored = iter(await self._records.submit(good))
        answers = [next(stored) if result is None else result for result in results]
        self._count(answers)
        return answers

    async def witness(self, messages: Sequence[pb.Witness]) -> list[Result]:
        """What became of each witness, once it is durable; an error refuses that one for good."""
        results: list[Result | None] = []
        good: list[Witness] = []
        for message in messages:
            try:
                good.append(self._witness_reader.read(message))
                results.append(None)
            except CodedError as error:
                self._log.warning("witness refused", node_id=message.node_id[:64], reason=error.public)
                results.append(error)
        stored = iter(await self._witnesses.submit(good))
        answers = [next(stored) if result is None else result for result in results]
        refused = sum(isinstance(answer, CodedError) for answer in answers)
        self._metrics.witnesses.labels("refused").inc(refused)
        self._metrics.witnesses.labels("stored").inc(len(answers) - refused)
        return answers

    def _prepare(self, message: pb.UsageRecord) -> PreparedRecord:
        record = self._record_reader.read(message)
        if policy.above_honest_total(record.counts, record.terms.max_total_tokens):
            # The gateway's word stands, but somebody should look at that node or at that bound.
            self._metrics.above_bound.inc()
            self._log.warning(
                "more tokens than the request could use",
                request_id=str(UUID(bytes=record.request_id)),
                node_id=record.terms.node_id,
            )
        try:
            return PreparedRecord(record, usage_row(LedgerRow(record)))
        except (PackError, UnicodeEncodeError) as error:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "The record cannot be stored.", private=str(error)) from error

    def _count(self, answers: Sequence[Result]) -> None:
        refused = duplicates = 0
        for answer in answers:
            if isinstance(answer, CodedError):
                refused += 1
            elif answer.duplicate:
                duplicates += 1
        self._metrics.records.labels("stored").inc(len(answers) - refused - duplicates)
        self._metrics.created.inc(len(answers) - refused - duplicates)
        if duplicates:
            self._metrics.records.labels("duplicate").inc(duplicates)
        if refused:
            self._metrics.records.labels("refused").inc(refused)

"""Usage records on their way to the accountant: each is kept until it is durable there."""

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic_common.batched import BatchLink
from crosslogic_common.batched.link import BidiStream
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_common.wire import repeated_calls

RecordStream = BidiStream[bytes, accountant_pb.RecordStreamResponse]

MAX_UNACKNOWLEDGED = 4096
"""Records on the wire at a time; the accountant works on no more of one stream."""


class UsageOutbox:
    """Sends records over one long-lived stream and repeats what was not acknowledged when it breaks.

    A record that is sent twice is stored once: its request id is the ledger's key. Memory is bounded: at `max_records`
    the gateway is `full` and must refuse requests rather than serve what it could not bill.
    """

    def __init__(self, *, open_stream: Callable[[], RecordStream], max_records: int = 500_000) -> None:
        """`open_stream` opens AccountantService.RecordStream, its requests serialised already."""
        self._max_records = max_records
        self._waiting: OrderedDict[int, bytes] = OrderedDict()
        self._sent: dict[int, bytes] = {}
        self._next_id = 1
        self._log = get_logger(__name__)
        self._link: BatchLink[tuple[int, bytes], bytes, accountant_pb.RecordStreamResponse] = BatchLink(
            name="accountant",
            open_stream=open_stream,
            encode=repeated_calls,
            on_message=self._on_message,
            on_broken=self._on_broken,
            max_queued=MAX_UNACKNOWLEDGED,
        )
        self.refused = 0

    def __len__(self) -> int:
        """Records that are not yet durable."""
        return len(self._waiting) + len(self._sent)

    @property
    def next_id(self) -> int:
        """Number of the next record; they rise by 1."""
        return self._next_id

    @property
    def oldest_id(self) -> int | None:
        """Number of the oldest record that is not yet durable. For scrapes: also from another thread."""
        try:
            return min((next(iter(each)) for each in (self._sent, self._waiting) if each), default=None)
        except (RuntimeError, StopIteration):
            # It changed under way: it moves.
            return None

    @property
    def full(self) -> bool:
        """No further request may be served until the accountant has caught up."""
        return len(self) >= self._max_records

    @property
    def connected(self) -> bool:
        """Whether the accountant answers."""
        return self._link.connected.is_set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sends for as long as the block lasts."""
        async with self._link.running():
            yield

    def record(self, serialised: bytes) -> None:
        """Takes a serialised UsageRecord. Never refuses: who checks `full` first never comes here too often."""
        record_id = self._next_id
        self._next_id = record_id + 1
        if len(self._sent) < MAX_UNACKNOWLEDGED and not self._waiting and self._try_send(record_id, serialised):
            return
        self._waiting[record_id] = serialised

    def _try_send(self, record_id: int, serialised: bytes) -> bool:
        try:
            self._link.send((record_id, serialised))
        except CodedError as error:
            if error.code != ErrorCode.OVERLOADED:
                raise
            return False
        self._sent[record_id] = serialised
        return True

    def _on_message(self, message: accountant_pb.RecordStreamResponse) -> None:
        sent = self._sent
        for result in message.results:
            serialised = sent.pop(result.id, None)
            if result.HasField("error") and serialised is not None:
                self.refused += 1
                self._log.error(
                    "usage record refused for good",
                    code=result.error.code,
                    reason=result.error.message,
                    request_id=accountant_pb.UsageRecord.FromString(serialised).context.request_id,
                )
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and len(self._sent) < MAX_UNACKNOWLEDGED:
            record_id, serialised = self._waiting.popitem(last=False)
            if not self._try_send(record_id, serialised):
                self._waiting[record_id] = serialised
                self._waiting.move_to_end(record_id, last=False)
                return

    def _on_broken(self, _error: CodedError) -> None:
        """Whether the accountant stored what was sent is not known: all of it is sent again, oldest first."""
        sent, self._sent = self._sent, {}
        for record_id in sorted(sent, reverse=True):
            self._waiting[record_id] = sent[record_id]
            self._waiting.move_to_end(record_id, last=False)
        self._send_waiting()

"""What this worker saw of nodes: told to the scheduler, and used here while the scheduler is away."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from crosslogic.scheduler.v1 import scheduler_pb2 as scheduler_pb
from crosslogic_common.clock import Clock
from crosslogic_common.outliers import OutlierPolicy, PeerRecord, Phase, Seen

TELL_EVERY_S = 1.0
"""How long successes gather. Failures are told at once."""
MAX_UNTOLD = 1_000
MAX_RECORDS = 10_000


@dataclass(slots=True)
class _Untold:
    """Outcomes of one node that were not told yet."""

    node_id: str
    succeeded: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    first_byte_s: float = 0.0
    first_bytes: int = 0
    """Successes of which the time to the first byte is known."""


class NodeReports:
    """Outcomes of requests by node, gathered into few messages."""

    def __init__(self, *, tell: Callable[[scheduler_pb.NodeOutcomes], None], clock: Clock) -> None:
        """`tell` sends one node's outcomes to the scheduler, or drops them while it is away; it must not block."""
        self._tell = tell
        self._clock = clock
        self._policy = OutlierPolicy()
        self._untold: dict[str, _Untold] = {}
        self._records: OrderedDict[str, PeerRecord] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self.also: Callable[[scheduler_pb.NodeOutcomes, int], None] | None = None
        """Who else is told of one node's outcomes, and in how many the first byte's time is known; must not block."""

    def succeeded(self, node_id: str, first_byte_s: float) -> None:
        """The node answered, its first byte after `first_byte_s` seconds (0: not known)."""
        gathered = self._gathered(node_id)
        gathered.succeeded += 1
        gathered.failed_in_a_row = 0
        if first_byte_s > 0.0:
            gathered.first_byte_s += first_byte_s
            gathered.first_bytes += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_EVERY_S, self._tell_all)

    def failed(self, node_id: str) -> None:
        """The node did not answer, broke off or was too slow. Not for what a client broke off."""
        gathered = self._gathered(node_id)
        gathered.failed += 1
        gathered.failed_in_a_row += 1
        self._tell_one(node_id)

    def ejected(self, node_id: str) -> bool:
        """Whether the node failed so often here that it is better left alone for now."""
        record = self._records.get(node_id)
        return record is not None and record.phase is Phase.OUT and self._clock.monotonic() < record.until

    def close(self) -> None:
        """Tells what is left."""
        if self._timer is not None:
            self._timer.cancel()
        self._tell_all()

    def _gathered(self, node_id: str) -> _Untold:
        gathered = self._untold.get(node_id)
        if gathered is None:
            if len(self._untold) >= MAX_UNTOLD:
                self._tell_all()
            gathered = self._untold[node_id] = _Untold(node_id)
        return gathered

    def _tell_all(self) -> None:
        self._timer = None
        for node_id in list(self._untold):
            self._tell_one(node_id)

    def _tell_one(self, node_id: str) -> None:
        gathered = self._untold.pop(node_id)
        told = scheduler_pb.NodeOutcomes(
            node_id=node_id,
            succeeded=gathered.succeeded,
            failed=gathered.failed,
            failed_in_a_row=gathered.failed_in_a_row,
            first_byte_us_total=max(round(gathered.first_byte_s * 1e6), 0),
        )
        self._note(told)
        self._tell(told)
        if self.also is not None:
            self.also(told, gathered.first_bytes)

    def _note(self, told: scheduler_pb.NodeOutcomes) -> None:
        """Keeps a record of nodes that failed; one that never did needs none."""
        record = self._records.get(told.node_id)
        if record is None:
            if not told.failed:
                return
            record = self._records[told.node_id] = PeerRecord()
            if len(self._records) > MAX_RECORDS:
                self._records.popitem(last=False)
        now = self._clock.monotonic()
        if record.phase is Phase.OUT:
            if now < record.until:
                return
            # Any request is a trial here: this worker does not choose while the scheduler answers.
            record.half_open()
            if told.failed:
                record.eject(self._policy, now)
                return
            record.restore(self._policy, now)
        seen = Seen(told.succeeded, told.failed, told.failed_in_a_row, told.first_byte_us_total)
        record.note(seen, self._policy, now)
        if record.reason_to_eject(self._policy, 0.0, now) is not None:
            record.eject(self._policy, now)
        elif not record.ejections and not record.failures:
            del self._records[told.node_id]

"""Settles from witnesses what no gateway reported, and notes where the two disagree."""

import asyncio
from collections.abc import Callable, Sequence

import psycopg

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic_accountant import policy
from crosslogic_accountant.domain import Difference, UsageRecord, Witness
from crosslogic_accountant.metrics import LedgerMetrics
from crosslogic_accountant.policy import WitnessRing
from crosslogic_accountant.ports import OpenWitness, Settlement, SettlingStore
from crosslogic_accountant.record_reader import RecordReader
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger


class Settler:
    """Looks at the slots whose grace time is over. Any number of replicas may run one."""

    def __init__(
        self,
        *,
        store: SettlingStore,
        ring: WitnessRing,
        reader: RecordReader,
        metrics: LedgerMetrics,
        now_s: Callable[[], float],
    ) -> None:
        """`now_s` is the wall clock in seconds since the epoch."""
        self._store = store
        self._ring = ring
        self._reader = reader
        self._metrics = metrics
        self._now_s = now_s
        self._log = get_logger(__name__)

    async def run(self, interval_s: float = 1.0) -> None:
        """Settles for ever. What fails is tried again at the next turn: nothing is lost by waiting."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.settle_due()
            except CodedError as error:
                self._log.warning("settling waits for the database", reason=error.private)
            except psycopg.errors.UniqueViolation:
                self._log.info("a gateway reported a request just as it was settled; settling again")
            except Exception as error:  # noqa: BLE001  # one bad turn must not end all turns
                self._log.error("settling failed", exc_info=error)

    async def settle_due(self) -> int:
        """Empties every slot that is due; returns how many records were written."""
        written = 0
        for slot in self._ring.due(self._now_s()):
            done = await self._store.settle_slot(slot, grace_s=self._ring.grace_s, decide=self.decide)
            if done:
                written += done
                self._metrics.settled.inc(done)
                self._metrics.created.inc(done)
                self._log.warning("settled from witnesses", records=done)
        return written

    def decide(self, opened: Sequence[OpenWitness]) -> Settlement:
        """What becomes of these witnesses."""
        records: list[UsageRecord] = []
        differences: list[Difference] = []
        unpaid: list[Witness] = []
        for item in opened:
            if item.stored is not None:
                stored = item.stored.record
                differences.append(Difference(item.witness, stored.counts, stored.outcome))
            elif policy.settles(item.witness.outcome, item.witness.counts):
                record = self._record(item)
                if record is not None:
                    records.append(record)
            elif item.witness.counts.prompt_tokens + item.witness.counts.completion_tokens:
                unpaid.append(item.witness)
        self._metrics.differences.inc(len(differences))
        return Settlement(records, differences, unpaid)

    def _record(self, item: OpenWitness) -> UsageRecord | None:
        witness = item.witness
        try:
            return self._reader.charge(
                pb.RequestContext.FromString(witness.context),
                witness.counts,
                witness.outcome,
                latency_us=witness.duration_us,
                from_witness=True,
            )
        except CodedError as error:
            self._log.error("a witness cannot become a record", node_id=witness.node_id, reason=error.public)
            return None

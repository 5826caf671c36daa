"""What each call used, told to the registry until the ledger has it: no kill and no outage of ours loses one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from crosslogic.accountant.v1 import accountant_pb2 as accountant_pb
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic.registry.v1 import registry_pb2_grpc as rpc
from crosslogic_common.batched import Backoff, BatchedCaller
from crosslogic_common.errors import CodedError
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_node_agent.call_output import OUTCOMES, usage_message
from crosslogic_node_agent.domain import Ending, TokenCount
from crosslogic_node_agent.metrics import AgentMetrics
from crosslogic_node_agent.spool import Spool, Spooled, SpoolFullError

BATCH = 256
ACKNOWLEDGE_S = 30.0
_SYNC_S = 1.0

WitnessCaller = BatchedCaller[accountant_pb.Witness, str, pb.WitnessStreamRequest, pb.WitnessStreamResponse]


def witness_caller(channels: Channels, registry_target: str) -> WitnessCaller:
    """The stream that carries witnesses to the registry."""

    def encode(calls: list[tuple[int, accountant_pb.Witness]]) -> pb.WitnessStreamRequest:
        return pb.WitnessStreamRequest(
            calls=[pb.WitnessStreamCall(id=call_id, witness=witness) for call_id, witness in calls]
        )

    def decode(message: pb.WitnessStreamResponse) -> Iterable[tuple[int, str | CodedError]]:
        return [(result.id, result.refused_reason) for result in message.results]

    return BatchedCaller(
        name="witnesses",
        open_stream=lambda: rpc.RegistryServiceStub(channels.service("registry", registry_target)).WitnessStream(),
        encode=encode,
        decode=decode,
        backoff=Backoff(base_s=0.2, cap_s=10.0),
        max_in_flight=BATCH,
    )


class WitnessOutbox:
    """Spools witnesses and sends them."""

    def __init__(self, *, spool: Spool, caller: WitnessCaller, metrics: AgentMetrics) -> None:
        self._spool = spool
        self._caller = caller
        self._metrics = metrics
        self._put = asyncio.Event()
        self._unsynced = False
        self._log = get_logger(__name__)
        metrics.witnesses_waiting.set_function(lambda: len(spool))

    def record(self, sealed_context: bytes, count: TokenCount, ending: Ending, duration_us: int) -> None:
        """A call ended. Never raises: a disk that is full costs the second opinion, not the call."""
        witness = accountant_pb.Witness(
            sealed_context=sealed_context,
            usage=usage_message(count),
            outcome=OUTCOMES[ending],
            duration_us=max(duration_us, 0),
        )
        try:
            self._spool.put(witness.SerializeToString())
        except (SpoolFullError, OSError) as error:
            self._metrics.witnesses_lost.inc()
            self._log.error("witness lost: the spool takes no more", reason=repr(error))
            return
        self._unsynced = True
        self._put.set()

    @property
    def waiting(self) -> int:
        """Witnesses that are not acknowledged."""
        return len(self._spool)

    async def flush(self, timeout_s: float) -> None:
        """Returns when everything is acknowledged, or after `timeout_s`: what is left goes with the next start."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while len(self._spool):  # once in a process's life
                    await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sends for as long as the block lasts."""
        async with self._caller.running():
            tasks = [asyncio.create_task(self._send(), name="witnesses"), asyncio.create_task(self._sync())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._spool.close()

    async def _send(self) -> None:
        backoff = Backoff(base_s=0.2, cap_s=10.0)
        retried: list[Spooled] = []
        while True:
            batch = retried or self._spool.take(BATCH)
            if not batch:
                self._put.clear()
                await self._put.wait()
                continue
            refusals = await asyncio.gather(*(self._send_one(record) for record in batch))
            retried = [record for record, refusal in zip(batch, refusals, strict=True) if refusal]
            if retried:
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()

    async def _send_one(self, record: Spooled) -> bool:
        """Sends one; says whether it must be sent again."""
        witness = accountant_pb.Witness.FromString(record.content)
        try:
            refused_reason = await self._caller.call(witness, timeout_s=ACKNOWLEDGE_S)
        except CodedError:
            return True
        if refused_reason:
            self._log.warning("witness refused for good", reason=refused_reason)
        self._spool.acknowledge(record)
        return False

    async def _sync(self) -> None:
        """A loss of power costs at most the witnesses of the last second; a kill costs none."""
        while True:
            await asyncio.sleep(_SYNC_S)
            if self._unsynced:
                self._unsynced = False
                # A segment that was given up meanwhile needs no sync.
                with contextlib.suppress(OSError, ValueError):
                    await asyncio.to_thread(self._spool.sync)

"""The usage outbox: whatever breaks, every record reaches the accountant, and memory stays bounded."""

import asyncio
import random

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosslogic.accountant.v1 import accountant_pb2 as pb
from crosslogic.common.v1 import common_pb2
from crosslogic_common.batched import Backoff, BatchLink
from crosslogic_gateway import usage_outbox
from crosslogic_gateway.usage_outbox import UsageOutbox


def record(number: int) -> bytes:
    return pb.UsageRecord(context=pb.RequestContext(request_id=str(number))).SerializeToString()


class FlakyAccountant:
    """Stores what it gets; loses its stream before or after storing, as the seed says."""

    def __init__(self, seed: int, break_chance: float) -> None:
        self.stored: dict[str, int] = {}
        self._random = random.Random(seed)
        self._break_chance = break_chance

    def open(self) -> "FlakyStream":
        return FlakyStream(self)

    def take(self, message: pb.RecordStreamRequest) -> pb.RecordStreamResponse | None:
        lost_before = self._random.random() < self._break_chance
        if lost_before:
            return None
        for call in message.calls:
            key = call.record.context.request_id
            self.stored[key] = self.stored.get(key, 0) + 1
        lost_after = self._random.random() < self._break_chance
        if lost_after:
            return None
        return pb.RecordStreamResponse(results=[pb.RecordStreamResult(id=call.id) for call in message.calls])


class FlakyStream:
    def __init__(self, accountant: FlakyAccountant) -> None:
        self._accountant = accountant
        self._answers: asyncio.Queue[object] = asyncio.Queue()

    async def wait_for_connection(self) -> None:
        await asyncio.sleep(0)

    async def write(self, request: bytes) -> None:
        await asyncio.sleep(0)
        answer = self._accountant.take(pb.RecordStreamRequest.FromString(request))
        self._answers.put_nowait(grpc.aio.EOF if answer is None else answer)

    async def read(self) -> object:
        return await self._answers.get()

    def cancel(self) -> bool:
        return True


def impatient(outbox: UsageOutbox) -> UsageOutbox:
    link: BatchLink[object, object, object] = outbox._link  # type: ignore[assignment]
    link._backoff = Backoff(base_s=0.0001, cap_s=0.0001)
    return outbox


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), break_chance=st.floats(0, 0.4), count=st.integers(1, 300))
def test_every_record_is_stored_however_often_the_stream_breaks(seed: int, break_chance: float, count: int) -> None:
    accountant = FlakyAccountant(seed, break_chance)

    async def scenario() -> None:
        outbox = impatient(UsageOutbox(open_stream=accountant.open))
        async with outbox.running():
            for number in range(count):
                outbox.record(record(number))
                if number % 7 == 0:
                    await asyncio.sleep(0)
            async with asyncio.timeout(20):
                while len(outbox):
                    await asyncio.sleep(0.001)

    asyncio.run(scenario())
    assert set(accountant.stored) == {str(number) for number in range(count)}


async def test_a_gateway_that_cannot_bill_says_so_before_it_serves() -> None:
    outbox = UsageOutbox(open_stream=FlakyAccountant(0, 1.0).open, max_records=3)
    for number in range(3):
        assert not outbox.full
        outbox.record(record(number))
    assert outbox.full
    assert len(outbox) == 3


async def test_no_more_is_on_the_wire_than_the_accountant_works_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_outbox, "MAX_UNACKNOWLEDGED", 10)
    sent: list[int] = []

    class Silent(FlakyStream):
        async def write(self, request: bytes) -> None:
            sent.append(len(pb.RecordStreamRequest.FromString(request).calls))

    outbox = UsageOutbox(open_stream=lambda: Silent(FlakyAccountant(0, 0)))
    async with outbox.running():
        await asyncio.sleep(0.01)
        for number in range(100):
            outbox.record(record(number))
        await asyncio.sleep(0.01)
        assert sum(sent) == 10
        assert len(outbox) == 100


async def test_a_record_refused_for_good_is_counted_and_does_not_hold_up_the_others() -> None:
    class Strict(FlakyAccountant):
        def take(self, message: pb.RecordStreamRequest) -> pb.RecordStreamResponse:
            return pb.RecordStreamResponse(
                results=[
                    pb.RecordStreamResult(id=call.id, error=common_pb2.CallError(code="INVALID_ARGUMENT"))
                    for call in message.calls
                ]
            )

    outbox = UsageOutbox(open_stream=Strict(0, 0).open)
    async with outbox.running():
        outbox.record(record(1))
        async with asyncio.timeout(5):
            while len(outbox):
                await asyncio.sleep(0.001)
    assert outbox.refused == 1

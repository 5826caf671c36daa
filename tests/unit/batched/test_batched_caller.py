"""The batched stream's client against an in-memory stream: nothing is lost, nothing answered twice, nothing hangs."""

import asyncio
import random
from functools import partial

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.batched import Backoff, BatchedCaller, GatheringWriter
from crosslogic_common.errors import CodedError, ErrorCode

Call = tuple[int, str]


class MemoryStream:
    """Answers each call with its request reversed, in a random order; can be broken."""

    def __init__(self, *, seed: int = 0, silent: bool = False) -> None:
        self.batches: list[list[Call]] = []
        self._answers: asyncio.Queue[list[Call] | None] = asyncio.Queue()
        self._random = random.Random(seed)
        self._silent = silent

    async def wait_for_connection(self) -> None:
        await asyncio.sleep(0)

    async def write(self, request: list[Call]) -> None:
        self.batches.append(request)
        await asyncio.sleep(0)
        if not self._silent:
            answers = [(call_id, text[::-1]) for call_id, text in request]
            self._random.shuffle(answers)
            self._answers.put_nowait(answers)

    async def read(self) -> object:
        answers = await self._answers.get()
        return grpc.aio.EOF if answers is None else answers

    def cancel(self) -> bool:
        self._answers.put_nowait(None)
        return True

    def end(self) -> None:
        self._answers.put_nowait(None)


def make_caller(streams: list[MemoryStream], **options: int) -> BatchedCaller[str, str, list[Call], list[Call]]:
    opened = iter(streams)
    return BatchedCaller(
        name="test",
        open_stream=lambda: next(opened),
        encode=lambda calls: calls,
        decode=lambda message: message,
        backoff=Backoff(base_s=0.001, cap_s=0.001),
        **options,
    )


@given(texts=st.lists(st.text(max_size=5), min_size=1, max_size=200), seed=st.integers(0, 1000))
def test_every_call_gets_its_own_answer_whatever_the_order(texts: list[str], seed: int) -> None:
    async def scenario() -> list[str]:
        caller = make_caller([MemoryStream(seed=seed)], max_batch=7)
        async with caller.running():
            answers = await asyncio.gather(*(caller.call(text, timeout_s=5) for text in texts))
            assert caller.in_flight == 0
            return list(answers)

    assert asyncio.run(scenario()) == [text[::-1] for text in texts]


async def test_calls_made_together_share_a_write() -> None:
    stream = MemoryStream()
    caller = make_caller([stream])
    async with caller.running():
        await caller.call("warm", timeout_s=5)
        await asyncio.gather(*(caller.call(str(i), timeout_s=5) for i in range(100)))
    assert len(stream.batches) == 2
    assert len(stream.batches[1]) == 100


async def test_a_broken_stream_fails_what_is_in_flight_and_the_next_call_goes_through() -> None:
    silent, healthy = MemoryStream(silent=True), MemoryStream()
    caller = make_caller([silent, healthy])
    async with caller.running():
        lost = asyncio.create_task(caller.call("lost", timeout_s=5))
        await asyncio.sleep(0.01)
        silent.end()
        with pytest.raises(CodedError) as caught:
            await lost
        assert caught.value.code == ErrorCode.UNAVAILABLE
        await asyncio.wait_for(caller.connected.wait(), 5)
        assert await caller.call("next", timeout_s=5) == "txen"


async def test_a_call_without_an_answer_ends_at_its_deadline() -> None:
    caller = make_caller([MemoryStream(silent=True)])
    async with caller.running():
        started = asyncio.get_running_loop().time()
        with pytest.raises(CodedError) as caught:
            await caller.call("slow", timeout_s=0.1)
        elapsed_s = asyncio.get_running_loop().time() - started
        assert caught.value.code == ErrorCode.TIMEOUT
        assert 0.1 <= elapsed_s < 5
        assert caller.in_flight == 0


async def test_calls_beyond_the_bound_are_refused_at_once() -> None:
    caller = make_caller([MemoryStream(silent=True)], max_in_flight=2)
    async with caller.running():
        waiting = [asyncio.create_task(caller.call(str(i), timeout_s=5)) for i in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(CodedError) as caught:
            await caller.call("third", timeout_s=5)
        assert caught.value.code == ErrorCode.OVERLOADED
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert caller.in_flight == 0


async def test_a_cancelled_call_leaves_nothing_behind_and_its_late_answer_is_ignored() -> None:
    stream = MemoryStream()
    caller = make_caller([stream])
    async with caller.running():
        task = asyncio.create_task(caller.call("gone", timeout_s=5))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert caller.in_flight == 0
        assert await caller.call("here", timeout_s=5) == "ereh"


async def test_closing_fails_calls_in_flight_rather_than_hanging_them() -> None:
    caller = make_caller([MemoryStream(silent=True)])
    async with caller.running():
        task = asyncio.create_task(caller.call("left", timeout_s=60))
        await asyncio.sleep(0.01)
    with pytest.raises(CodedError):
        await asyncio.wait_for(task, 1)


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=20), max_batch=st.integers(1, 8))
def test_gathering_keeps_order_and_loses_nothing(sizes: list[int], max_batch: int) -> None:
    written: list[list[int]] = []

    async def write(batch: list[int]) -> None:
        await asyncio.sleep(0)
        written.append(batch)

    async def scenario() -> None:
        writer: GatheringWriter[int] = GatheringWriter(write=write, max_batch=max_batch)
        task = asyncio.create_task(writer.run())
        number = 0
        for size in sizes:
            for _ in range(size):
                writer.send(number)
                number += 1
            await asyncio.sleep(0)
        await writer.flush()
        task.cancel()

    asyncio.run(scenario())
    assert [item for batch in written for item in batch] == list(range(sum(sizes)))
    assert all(len(batch) <= max_batch for batch in written)


def test_backoff_grows_to_its_cap_and_never_reaches_zero() -> None:
    for drawn in (0.0, 0.999):
        backoff = Backoff(base_s=0.1, cap_s=1.0, uniform=partial(float, drawn))
        waits = [backoff.next_s() for _ in range(2000)]
        assert min(waits) >= 0.05
        assert max(waits) <= 1.0
        assert waits[-1] >= 0.5
        backoff.reset()
        assert backoff.next_s() <= 0.1

"""The batched stream's server side: one answer a call, back-pressure, and an end that cuts nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosslogic_common.batched import serve_batches
from crosslogic_common.errors import CodedError, ErrorCode

Batch = list[tuple[int, int]]


async def messages(batches: list[Batch]) -> AsyncIterator[Batch]:
    for batch in batches:
        await asyncio.sleep(0)
        yield batch


@given(sizes=st.lists(st.integers(0, 10), max_size=15), use_async=st.booleans())
def test_each_call_is_answered_exactly_once(sizes: list[int], use_async: bool) -> None:
    batches: list[Batch] = []
    number = 0
    for size in sizes:
        batches.append([(number + i, number + i) for i in range(size)])
        number += size
    answered: list[tuple[int, int | CodedError]] = []

    async def write(answers: Sequence[tuple[int, int | CodedError]]) -> None:
        await asyncio.sleep(0)
        answered.extend(answers)

    def double(requests: Sequence[int]) -> Sequence[int | CodedError]:
        return [2 * request for request in requests]

    async def slowly_double(requests: Sequence[int]) -> Sequence[int | CodedError]:
        await asyncio.sleep(0.0001 * (len(requests) % 3))
        return double(requests)

    asyncio.run(
        serve_batches(
            messages(batches),
            write,
            calls=lambda batch: batch,
            handle=slowly_double if use_async else double,
            encode=lambda answers: answers,
        )
    )
    assert sorted(answered) == [(i, 2 * i) for i in range(number)]


async def test_an_error_of_the_handler_answers_its_calls_and_the_stream_goes_on() -> None:
    answered: list[tuple[int, int | CodedError]] = []

    async def write(answers: Sequence[tuple[int, int | CodedError]]) -> None:
        answered.extend(answers)

    def handle(requests: Sequence[int]) -> Sequence[int | CodedError]:
        if 1 in requests:
            raise CodedError(ErrorCode.NO_CAPACITY)
        return list(requests)

    await serve_batches(
        messages([[(1, 1), (2, 2)], [(3, 3)]]),
        write,
        calls=lambda batch: batch,
        handle=handle,
        encode=lambda answers: answers,
    )
    assert [getattr(answer, "code", answer) for _, answer in answered] == ["NO_CAPACITY", "NO_CAPACITY", 3]


async def test_a_stream_is_not_read_while_too_many_calls_are_worked_on() -> None:
    taken = 0
    release = asyncio.Event()

    async def endless() -> AsyncIterator[Batch]:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield [(taken, taken)]

    async def handle(requests: Sequence[int]) -> Sequence[int | CodedError]:
        await release.wait()
        return list(requests)

    async def write(_answers: object) -> None:
        return

    task = asyncio.create_task(
        serve_batches(
            endless(), write, calls=lambda batch: batch, handle=handle, encode=lambda answers: answers, max_in_flight=5
        )
    )
    await asyncio.sleep(0.05)
    assert taken == 6
    release.set()
    await asyncio.wait_for(task, 5)
    assert taken == 100


@pytest.mark.parametrize("use_async", [False, True])
async def test_a_stopping_server_answers_what_it_has_read_and_ends(use_async: bool) -> None:
    stopping = asyncio.Event()
    answered: list[tuple[int, int | CodedError]] = []

    async def one_then_silence() -> AsyncIterator[Batch]:
        yield [(1, 1)]
        await asyncio.Event().wait()

    async def slow(requests: Sequence[int]) -> Sequence[int | CodedError]:
        await asyncio.sleep(0.05)
        return list(requests)

    async def write(answers: Sequence[tuple[int, int | CodedError]]) -> None:
        await asyncio.sleep(0.01)
        answered.extend(answers)

    task = asyncio.create_task(
        serve_batches(
            one_then_silence(),
            write,
            calls=lambda batch: batch,
            handle=slow if use_async else list,
            encode=lambda answers: answers,
            stopping=stopping,
        )
    )
    await asyncio.sleep(0.02)
    stopping.set()
    await asyncio.wait_for(task, 1)
    assert answered == [(1, 1)]


async def test_a_cancelled_stream_stays_cancelled() -> None:
    async def silence() -> AsyncIterator[Batch]:
        await asyncio.Event().wait()
        yield []

    async def write(_answers: object) -> None:
        return

    task = asyncio.create_task(
        serve_batches(
            silence(),
            write,
            calls=lambda batch: batch,
            handle=list,
            encode=lambda answers: answers,
            stopping=asyncio.Event(),
        )
    )
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

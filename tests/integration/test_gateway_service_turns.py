"""At the limits of the whole service: who goes first, who is told at once that it would be too late."""

import asyncio
import time
from collections import Counter

import pytest

from crosslogic_common.errors import ErrorCode
from crosslogic_gateway.admission.refusals import RefusedError
from crosslogic_gateway.admission.wiring import RunningAdmission
from crosslogic_gateway.domain import Limits, Principal
from crosslogic_gateway.shedding.domain import Rank
from crosslogic_gateway.shedding.service_turns import Turn
from tests.fakes.admission_script import principal
from tests.fakes.admission_world import admit, workers

PER_S = 40


async def _all_taken(worker: RunningAdmission, who: Principal) -> None:
    """Until nothing is left for now."""
    for number in range(10 * PER_S):
        try:
            await admit(worker, who, f"first-{time.monotonic()}-{number}")
        except RefusedError:
            return
    raise AssertionError("the limit was never met")


async def test_who_may_wait_is_served_in_order_of_priority_and_never_beyond_the_limit(redis_url: str) -> None:
    who, served = principal(), list[Rank]()
    async with workers(redis_url, 1, global_limits=Limits(requests_per_second=PER_S)) as (worker,):
        await _all_taken(worker, who)

        async def one(number: int, rank: Rank) -> None:
            await admit(worker, who, f"{rank}-{number}", turn=Turn(rank, 30.0))
            served.append(rank)

        began = time.monotonic()
        low = [asyncio.create_task(one(number, Rank.LOW)) for number in range(PER_S)]
        await asyncio.sleep(0)
        high = [asyncio.create_task(one(number, Rank.HIGH)) for number in range(PER_S)]
        await asyncio.gather(*low, *high)
        # As many as in two seconds, and nothing was there when the first one came.
        assert time.monotonic() - began > 0.9
    # The very first may have been asked for before a higher one came.
    assert served[1:].index(Rank.LOW) >= PER_S - 1


async def test_an_organisation_with_many_requests_does_not_push_out_one_with_few(redis_url: str) -> None:
    served: list[str] = []
    async with workers(redis_url, 1, global_limits=Limits(requests_per_second=PER_S)) as (worker,):
        await _all_taken(worker, principal())

        async def one(org_id: str, number: int) -> None:
            await admit(worker, principal(org_id=org_id), f"{org_id}-{number}", turn=Turn(Rank.NORMAL, 30.0))
            served.append(org_id)

        many = [asyncio.create_task(one("many", number)) for number in range(2 * PER_S)]
        await asyncio.sleep(0)
        few = [asyncio.create_task(one("few", number)) for number in range(4)]
        await asyncio.gather(*many, *few)
    assert Counter(served[:12])["few"] == 4


async def test_who_would_be_served_too_late_is_refused_at_once_with_a_time_to_come_back(redis_url: str) -> None:
    who = principal()
    async with workers(redis_url, 1, global_limits=Limits(requests_per_minute=PER_S)) as (worker,):
        await _all_taken(worker, who)
        began = time.monotonic()
        with pytest.raises(RefusedError) as refused:
            await admit(worker, who, "late", turn=Turn(Rank.NORMAL, 5.0))
        assert time.monotonic() - began < 2.0, "it did not wait for its deadline"
        assert refused.value.code is ErrorCode.OVERLOADED
        assert refused.value.layer == "global"
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 20


async def test_whoever_leaves_the_queue_takes_nothing_along(redis_url: str) -> None:
    who = principal()
    async with workers(redis_url, 1, global_limits=Limits(requests_per_second=PER_S)) as (worker,):
        await _all_taken(worker, who)
        gone = [asyncio.create_task(admit(worker, who, f"gone-{n}", turn=Turn(Rank.HIGH, 30.0))) for n in range(20)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        stays = await admit(worker, who, "stays", turn=Turn(Rank.LOW, 30.0))
        assert stays.global_at

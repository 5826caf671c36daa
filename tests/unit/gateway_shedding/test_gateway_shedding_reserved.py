"""Metering of reserved capacity, with a bucket and a clock of the test's own."""

import asyncio

import pytest

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admission.ticket import FreeTicket
from crosslogic_gateway.body import InferenceBody
from crosslogic_gateway.domain import Model, Principal
from crosslogic_gateway.shedding.domain import Rank
from crosslogic_gateway.shedding.gate import Gate
from crosslogic_gateway.shedding.lag import LoopLag
from crosslogic_gateway.shedding.overload import MeteredTicket, Overload
from crosslogic_gateway.shedding.reserved import MAX_METERS, ReservedMeters

UNITS = 100
BODY = InferenceBody("m", False, False, False, False, None, 1, 1)
MODEL = Model("m", "f", 4096, 1, 1, frozenset(), 0)


class Bucket:
    """One bucket for all, filled at UNITS a second, that holds ten seconds' worth."""

    def __init__(self) -> None:
        self.at = 50.0
        self._level = 10.0 * UNITS
        self._filled_at = self.at
        self.asked = 0
        self.broken = False

    async def take(self, org_id: str, model: str, *, units: int, wanted: int) -> tuple[int, float]:
        await asyncio.sleep(0)
        self.asked += 1
        if self.broken:
            raise CodedError(ErrorCode.UNAVAILABLE)
        self._level = min(10.0 * UNITS, self._level + (self.at - self._filled_at) * units)
        self._filled_at = self.at
        granted = int(min(wanted, self._level))
        if wanted > 0 and granted < 1:
            return 0, (1 - self._level) / units
        self._level -= granted
        return granted, 0.0

    @property
    def level(self) -> float:
        return min(10.0 * UNITS, self._level + (self.at - self._filled_at) * UNITS)


def meters_over(bucket: Bucket, workers: int = 1) -> ReservedMeters:
    return ReservedMeters(bucket, now=lambda: bucket.at, workers=workers)


async def generate(meters: ReservedMeters, tokens: int) -> bool:
    """One request that is over at once."""
    taken = await meters.take("acme", "m", UNITS, 4096)
    if taken is None:
        return False
    ReservedMeters.settle(*taken, tokens)
    return True


async def test_an_organisation_at_its_rate_is_never_refused() -> None:
    bucket = Bucket()
    meters = meters_over(bucket)
    for _ in range(500):
        assert await generate(meters, 50)
        bucket.at += 0.5


async def test_beyond_its_rate_an_organisation_gets_its_rate_and_what_it_had_saved_up() -> None:
    bucket = Bucket()
    meters = [meters_over(bucket) for _ in range(4)]
    answered = 0
    for number in range(4_000):
        answered += await generate(meters[number % 4], 50)
        bucket.at += 0.01
    # 40 s at 100 tokens/s, 10 s saved up, and what each worker's last request was guessed too low.
    assert 5_000 * 0.95 <= answered * 50 <= 5_000 + 4 * 300


async def test_short_answers_of_requests_that_might_have_been_long_count_as_short() -> None:
    bucket = Bucket()
    meters = meters_over(bucket)
    for _ in range(300):
        assert await generate(meters, 10)
        bucket.at += 0.1


async def test_first_requests_that_say_how_short_they_are_are_taken_at_their_word() -> None:
    meters = meters_over(Bucket())
    taken = [await meters.take("acme", "m", UNITS, 20) for _ in range(40)]
    assert None not in taken, "40 of 20 tokens, 1000 saved up"


async def test_many_requests_at_once_are_let_through_as_far_as_there_is_capacity() -> None:
    bucket = Bucket()
    meters = meters_over(bucket)
    for _ in range(100):
        await generate(meters, 50)
        bucket.at += 1.0
    taken = await asyncio.gather(*(meters.take("acme", "m", UNITS, 4096) for _ in range(60)))
    let_in = [each for each in taken if each is not None]
    assert 18 <= len(let_in) <= 22, "1000 tokens saved up, 50 each"
    assert bucket.asked < 130


async def test_redis_is_asked_a_few_times_a_second_and_not_for_each_request() -> None:
    bucket = Bucket()
    meters = meters_over(bucket)
    for _ in range(2_000):
        assert await generate(meters, 1)
        bucket.at += 0.01
    assert bucket.asked <= 2_000 / 10 + 20


async def test_tokens_that_a_worker_does_not_use_go_back_to_the_others() -> None:
    bucket = Bucket()
    meters = meters_over(bucket)
    await generate(meters, 1)
    assert bucket.level < 10 * UNITS
    bucket.at += 1.5
    before = bucket.asked
    await meters.give_back_unused()
    assert bucket.asked == before + 1
    assert bucket.level == 10 * UNITS


async def test_without_redis_each_worker_gives_its_part_and_no_more() -> None:
    bucket = Bucket()
    meters = [meters_over(bucket, workers=4) for _ in range(4)]
    for each in meters:
        await generate(each, 1)
    bucket.broken = True
    answered = 0
    for number in range(4_000):
        answered += await generate(meters[number % 4], 10)
        bucket.at += 0.01
    assert 4_000 * 0.8 <= answered * 10 <= 4_000 + 4 * 400
    assert meters[0].away
    asked = bucket.asked
    for _ in range(20):
        await generate(meters[0], 10)
    assert bucket.asked <= asked + 1, "a Redis that is away is not asked for each request"


async def test_many_organisations_do_not_fill_the_memory() -> None:
    meters = meters_over(Bucket())
    for number in range(MAX_METERS + 50):
        await meters.take(f"org {number}", "m", UNITS, 4096)
    assert len(meters) == MAX_METERS


# What a request goes on as


def principal(*, units: int = UNITS, billed: bool = False) -> Principal:
    return Principal(
        "acme",
        "e",
        "k",
        "",
        None,
        "",
        None,
        plan="gold",
        reserved=True,
        reserved_units={"m": units},
        overage_billed=billed,
    )


def overload_over(bucket: Bucket) -> Overload:
    gate = Gate(lag=LoopLag(shed_from_s=1.0), now=lambda: bucket.at)
    return Overload(gate=gate, meters=meters_over(bucket), queue_wait_s=5.0)


async def test_a_request_beyond_reserved_capacity_is_shed_or_marked_as_billed() -> None:
    bucket = Bucket()
    overload = overload_over(bucket)
    within = await overload.claim({}, principal(), MODEL, BODY)
    assert (within.reserved, within.units, within.principal.plan) == (True, UNITS, "gold")
    within.used(5_000)
    with pytest.raises(CodedError) as refusal:
        await overload.claim({}, principal(), MODEL, BODY)
    assert refusal.value.code is ErrorCode.OVERLOADED
    assert refusal.value.retry_after_s is not None
    assert refusal.value.retry_after_s > 10
    billed = await overload.claim({"X-CrossLogic-Priority": "low"}, principal(billed=True), MODEL, BODY)
    assert (billed.reserved, billed.units, billed.principal.plan) == (False, 0, "gold/overage")
    assert billed.turn.rank is Rank.LOW


async def test_while_the_service_is_at_its_limit_lower_priorities_yield_to_a_higher_one_that_was_refused() -> None:
    bucket = Bucket()
    overload = overload_over(bucket)
    serverless = Principal("org", "e", "k", "", None, "", None, priority="high")
    low, normal = {"X-CrossLogic-Priority": "low"}, {"X-CrossLogic-Priority": "normal"}
    refused = await overload.claim(low, serverless, MODEL, BODY)
    overload.refused_by_service(refused)
    refused = await overload.claim(normal, serverless, MODEL, BODY)
    overload.refused_by_service(refused)
    with pytest.raises(CodedError) as refusal:
        await overload.claim(low, serverless, MODEL, BODY)
    assert refusal.value.code is ErrorCode.OVERLOADED
    await overload.claim(normal, serverless, MODEL, BODY)
    overload.refused_by_service(await overload.claim({}, serverless, MODEL, BODY))
    with pytest.raises(CodedError):
        await overload.claim(normal, serverless, MODEL, BODY)
    within = await overload.claim(low, principal(), MODEL, BODY)
    assert within.reserved, "reserved capacity yields to nobody"
    bucket.at += 1.1
    await overload.claim(low, serverless, MODEL, BODY)


async def test_a_model_without_reserved_capacity_is_beyond_it() -> None:
    overload = overload_over(Bucket())
    other = Model("other", "f", 4096, 1, 1, frozenset(), 0)
    with pytest.raises(CodedError):
        await overload.claim({}, principal(), other, BODY)
    assert (await overload.claim({}, principal(billed=True), other, BODY)).principal.plan == "gold/overage"


async def test_a_request_that_went_nowhere_used_no_capacity() -> None:
    bucket = Bucket()
    overload = overload_over(bucket)
    for _ in range(50):
        claim = await overload.claim({}, principal(), MODEL, BODY)
        MeteredTicket(FreeTicket(), claim).release()
        overload.leave(claim)


async def test_only_the_first_word_on_what_a_request_used_counts() -> None:
    bucket = Bucket()
    meters = meters_over(bucket)
    overload = Overload(gate=Gate(lag=LoopLag(shed_from_s=1.0), now=lambda: bucket.at), meters=meters, queue_wait_s=1.0)
    claim = await overload.claim({}, principal(), MODEL, BODY)
    meter = claim.meter
    assert meter is not None
    ticket = MeteredTicket(FreeTicket(), claim)
    ticket.settle(prompt_tokens=5, completion_tokens=40, cost_picodollars=1)
    balance = meter.balance
    ticket.release()
    claim.used(0)
    assert meter.balance == balance

"""Redis killed, hung, slow and empty: requests go on, limits and budgets hold, and afterwards every count is right."""

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_dev.ports import free_port
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.redis import start_redis
from crosslogic_dev.run_dir import RunDir
from crosslogic_gateway.admission import seeding
from crosslogic_gateway.admission.held_ticket import HeldTicket
from crosslogic_gateway.admission.ports import Settled, Used
from crosslogic_gateway.admission.refusals import RefusedError
from crosslogic_gateway.admission.wiring import RunningAdmission
from crosslogic_gateway.domain import HardBudget, Limits, Principal
from tests.fakes.admission_script import principal
from tests.fakes.admission_world import COMPLETION_PRICE, PROMPT_PRICE, FakeLedger, admit, workers

BUDGET_ID = "org:org-1:month"
MONTH = time.strftime("%Y-%m", time.gmtime())


@dataclass
class OwnRedis:
    """A Redis that a test may kill."""

    table: ProcessTable
    run_dir: RunDir
    port: int
    url: str

    def send(self, number: signal.Signals) -> None:
        assert self.table.send("redis", number)

    def kill(self) -> None:
        self.table.stop(["redis"], number=signal.SIGKILL)

    def start_empty(self) -> None:
        (self.run_dir.state_dir("redis") / "dump.rdb").unlink(missing_ok=True)
        start_redis(self.table, self.run_dir, port=self.port)

    def client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.url)


@pytest.fixture
def own_redis(tmp_path: object) -> Iterator[OwnRedis]:
    run_dir = RunDir(tmp_path / "run")  # type: ignore[operator]  # pytest's path
    run_dir.make()
    table = ProcessTable(run_dir)
    port = free_port()
    try:
        yield OwnRedis(table, run_dir, port, start_redis(table, run_dir, port=port))
    finally:
        table.stop(["redis"], number=signal.SIGKILL)


async def until_up(worker: RunningAdmission, up: bool = True) -> None:
    async with asyncio.timeout(30):
        while worker.pipe.up is not up:
            await asyncio.sleep(0.01)


async def as_many_as_pass(
    running: list[RunningAdmission], who: Principal, tries: int, *, name: str, max_tokens: int = 20
) -> list[HeldTicket]:
    """Asks each worker `tries` times."""

    async def one(worker: RunningAdmission, request_id: str) -> HeldTicket | None:
        try:
            return await admit(worker, who, request_id, max_tokens=max_tokens)
        except RefusedError:
            return None

    answers = await asyncio.gather(
        *(one(worker, f"{name}-{at}-{number}") for at, worker in enumerate(running) for number in range(tries))
    )
    return [ticket for ticket in answers if ticket is not None]


async def test_when_redis_dies_requests_go_on_and_the_limit_still_holds_over_all_workers(own_redis: OwnRedis) -> None:
    who = principal(key=Limits(requests_per_minute=100))
    async with workers(own_redis.url, 4) as running:
        before = await as_many_as_pass(running, who, 10, name="before")
        for worker in running:
            before += await as_many_as_pass([worker], who, 1, name=f"last {id(worker)}")
        assert len(before) == 44
        own_redis.kill()
        for worker in running:
            await until_up(worker, up=False)
        after = await as_many_as_pass(running, who, 100, name="after")
        assert 10 < len(after) <= 56
        assert all(worker.away for worker in running)


async def test_a_hung_redis_costs_one_request_its_time_and_the_next_ones_none(own_redis: OwnRedis) -> None:
    who = principal(key=Limits(requests_per_minute=100_000, concurrency=3))
    async with workers(own_redis.url, 1, budget_s=0.2) as running:
        held = await admit(running[0], who, "under way")
        own_redis.send(signal.SIGSTOP)
        try:
            began = time.monotonic()
            tickets = [await admit(running[0], who, f"r{number}") for number in range(2)]
            assert time.monotonic() - began < 5
            assert running[0].away
            with pytest.raises(RefusedError, match="under way"):
                await admit(running[0], who, "one too many")
            tickets[0].release()
            tickets.append(await admit(running[0], who, "in its place"))
        finally:
            own_redis.send(signal.SIGCONT)
        await until_up(running[0])
        with pytest.raises(RefusedError, match="under way"):
            await admit(running[0], who, "one too many")
        for ticket in (held, *tickets[1:]):
            ticket.release()
        with own_redis.client() as client:
            async with asyncio.timeout(30):
                while any(key.startswith((b"concurrency:", b"tickets:")) for key in client.scan_iter()):
                    await asyncio.sleep(0.02)


async def test_a_redis_that_answers_late_is_not_waited_for(own_redis: OwnRedis) -> None:
    who = principal(key=Limits(requests_per_minute=1_000))
    async with workers(own_redis.url, 1, budget_s=0.05) as running:
        await admit(running[0], who, "first")
        with own_redis.client() as client:
            sleeping = asyncio.create_task(asyncio.to_thread(client.execute_command, "DEBUG", "SLEEP", "10"))
            await asyncio.sleep(0.2)
            await admit(running[0], who, "meanwhile")
            assert not sleeping.done()
            own_redis.kill()
            with pytest.raises(redis.ConnectionError):
                await sleeping


async def test_a_full_redis_is_as_good_as_away_and_hears_what_it_refused_later(own_redis: OwnRedis) -> None:
    who = principal(key=Limits(concurrency=5))
    async with workers(own_redis.url, 1) as running:
        tickets = [await admit(running[0], who, f"r{number}") for number in range(2)]
        with own_redis.client() as client:
            client.config_set("maxmemory", 1)
            tickets[0].release()
            await until_up(running[0], up=False)
            tickets.append(await admit(running[0], who, "meanwhile"))
            for ticket in tickets:
                ticket.release()
            client.config_set("maxmemory", 0)
            async with asyncio.timeout(30):
                while client.get("concurrency:{org-1}:key:key-1") is not None:
                    await asyncio.sleep(0.02)


async def test_a_redis_that_comes_back_empty_is_filled_from_the_ledger_and_from_what_runs(own_redis: OwnRedis) -> None:
    who = principal(key=Limits(tokens_per_day=10_000, concurrency=2))
    ledger = FakeLedger()
    async with workers(own_redis.url, 2, ledger=ledger) as running:
        stream = await admit(running[0], who, "stream", max_tokens=50)
        own_redis.kill()
        for worker in running:
            await until_up(worker, up=False)
        ledger.entries = [Used("key", "key-1", "day", 3_600_000_000, 7, 9_000)]
        own_redis.start_empty()
        for worker in running:
            await until_up(worker)
        with pytest.raises(RefusedError) as refused:
            await admit(running[1], who, "much", max_tokens=950)
        assert refused.value.code is ErrorCode.QUOTA_EXCEEDED
        second = await admit(running[1], who, "little", max_tokens=10)
        with pytest.raises(RefusedError, match="under way"):
            await admit(running[1], who, "third", max_tokens=10)
        stream.settle(prompt_tokens=5, completion_tokens=5, cost_picodollars=0)
        second.release()
        for worker in running:
            await worker.pipe.flushed(10)
        with own_redis.client() as client:
            assert client.hget("tokens:{org-1}:key:key-1:day", "t") == b"9010"
            assert client.get("concurrency:{org-1}:key:key-1") is None


async def test_a_hard_budget_holds_over_all_workers_while_redis_is_away(own_redis: OwnRedis) -> None:
    cost = 20 * COMPLETION_PRICE
    limit = 300 * cost
    who = principal(budgets=(HardBudget(BUDGET_ID, "org", "month", limit),))
    ledger = FakeLedger(month=MONTH)
    async with workers(own_redis.url, 4, ledger=ledger) as running:
        before = await as_many_as_pass(running, who, 2, name="before")
        assert len(before) == 8
        own_redis.kill()
        for worker in running:
            await until_up(worker, up=False)
        ledger.spent_picodollars[BUDGET_ID] = limit // 2
        after = await as_many_as_pass(running, who, 300, name="after")
        held = sum(ticket.cost_picodollars for ticket in (*before, *after))
        assert after
        assert limit // 2 + held <= limit
        ledger.away = True
        for worker in running:
            worker.admission._local_budgets._states.clear()
        with pytest.raises(CodedError) as refused:
            await admit(running[0], who, "nobody knows")
        assert refused.value.code is ErrorCode.UNAVAILABLE


async def test_a_hard_budget_holds_when_redis_dies_before_the_ledger_has_heard_of_what_was_spent(
    own_redis: OwnRedis,
) -> None:
    limit = 100_000 * COMPLETION_PRICE
    who = principal(budgets=(HardBudget(BUDGET_ID, "org", "month", limit),))
    spent = 0
    async with workers(own_redis.url, 4, ledger=FakeLedger(month=MONTH)) as running:
        while spent < 0.6 * limit:
            for ticket in await as_many_as_pass(running[:2], who, 20, name=f"spent {spent}", max_tokens=100):
                spent += ticket.cost_picodollars
                ticket.settle(prompt_tokens=30, completion_tokens=100, cost_picodollars=ticket.cost_picodollars)
        for worker in running:
            await worker.pipe.flushed(10)
            (await admit(worker, who, f"last {id(worker)}")).release()
            await worker.pipe.flushed(10)
        own_redis.kill()
        for worker in running:
            await until_up(worker, up=False)
        after = await as_many_as_pass(running, who, 300, name="after", max_tokens=100)
        assert 0.75 * limit < spent + sum(ticket.cost_picodollars for ticket in after) <= limit


@pytest.mark.parametrize("used_after_s", [0.0, 1.3], ids=["the ledger answers", "the ledger is not waited for"])
async def test_a_thousand_requests_at_once_never_pass_a_hard_budget(redis_url: str, used_after_s: float) -> None:
    limit = 100_000 * COMPLETION_PRICE
    who = principal(budgets=(HardBudget(BUDGET_ID, "org", "month", limit),))
    ledger = FakeLedger(month=MONTH, spent_picodollars={BUDGET_ID: limit // 10}, used_after_s=used_after_s)
    spent = limit // 10
    async with workers(redis_url, 4, ledger=ledger) as running:
        for round_number in range(6):
            tickets = await as_many_as_pass(running, who, 250, name=f"round {round_number}", max_tokens=100)
            for ticket in tickets:
                cost = 30 * PROMPT_PRICE + 100 * COMPLETION_PRICE
                spent += cost
                ticket.settle(prompt_tokens=30, completion_tokens=100, cost_picodollars=cost)
            for worker in running:
                await worker.pipe.flushed(10)
        assert 0.95 * limit < spent <= limit


async def test_a_limit_is_not_given_out_twice_by_workers_that_did_not_wait_for_the_ledger(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long this machine may stand still before the others have heard from the ledger.
    monkeypatch.setattr(seeding, "WAIT_S", 3.0)
    who = principal(key=Limits(requests_per_minute=100, concurrency=1_000))
    hasty = FakeLedger(used_after_s=10.0)
    async with (
        workers(redis_url, 2, ledger=FakeLedger()) as (first, second),
        workers(redis_url, 2, ledger=hasty) as both,
    ):
        slow = asyncio.create_task(as_many_as_pass(both, who, 100, name="slow"))
        await asyncio.sleep(0.05)
        passed = await as_many_as_pass([first, second], who, 100, name="quick")
        passed += await slow
        assert len(passed) == 100
        for ticket in passed:
            ticket.release()
        for worker in (first, second, *both):
            await worker.pipe.flushed(10)
        with redis.Redis.from_url(redis_url) as client:
            assert client.get("concurrency:{org-1}:key:key-1") is None


async def test_what_a_killed_worker_spent_is_settled_as_the_ledger_says(redis_url: str) -> None:
    limit = 1_000 * COMPLETION_PRICE
    who = principal(budgets=(HardBudget(BUDGET_ID, "org", "month", limit),))
    ledger = FakeLedger(month=MONTH)
    with redis.Redis.from_url(redis_url) as client:
        async with workers(redis_url, 1, ledger=ledger) as (alive,):
            async with workers(redis_url, 1, ledger=ledger) as (killed,):
                await admit(killed, who, "lost", max_tokens=500)
                killed.pipe.close()
            held = int(client.get(f"budget:{{org-1}}:{BUDGET_ID}:{MONTH}") or 0)
            assert held >= 500 * COMPLETION_PRICE // 1000
            dead = next(name for name, _ in client.zscan_iter("admission:{org-1}"))
            client.zadd("admission:{org-1}", {dead: 1})
            ledger.records["lost"] = Settled(10, 20, 10 * PROMPT_PRICE + 20 * COMPLETION_PRICE)
            alive.upkeep._reaped_after_s = 0.0
            (await admit(alive, who, "next", max_tokens=100)).release()
            await alive.upkeep.reconcile()
            await alive.pipe.flushed(10)
            used = int(client.get(f"budget:{{org-1}}:{BUDGET_ID}:{MONTH}") or 0)
            assert used == (10 * PROMPT_PRICE + 20 * COMPLETION_PRICE) // 1000


async def test_a_client_that_leaves_while_it_is_admitted_holds_nothing(redis_url: str) -> None:
    who = principal(key=Limits(concurrency=1))
    async with workers(redis_url, 1) as (worker,):
        (await admit(worker, who, "first")).release()
        leaving = asyncio.create_task(admit(worker, who, "leaving"))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await worker.pipe.flushed(10)
        (await admit(worker, who, "next")).release()


async def test_requests_that_come_together_cost_one_round_trip_and_a_flushed_script_nothing(redis_url: str) -> None:
    who = principal(key=Limits(requests_per_minute=10_000, tokens_per_minute=10_000_000, concurrency=500))
    async with workers(redis_url, 1) as (worker,):
        await admit(worker, who, "first")
        with redis.Redis.from_url(redis_url) as client:
            client.script_flush()
            client.config_resetstat()
            tickets = await asyncio.gather(*(admit(worker, who, f"r{number}") for number in range(200)))
            for ticket in tickets:
                ticket.release()
            await worker.pipe.flushed(10)
            calls = client.info("commandstats")
        scripts = calls["cmdstat_evalsha"]["calls"] + calls["cmdstat_eval"]["calls"]
        assert scripts <= 40, "two hundred admissions and as many settlements"


async def test_the_whole_services_limit_holds_over_all_workers(redis_url: str) -> None:
    who = principal()
    async with workers(redis_url, 4, global_limits=Limits(requests_per_minute=200)) as running:
        passed = await as_many_as_pass(running, who, 100, name="r")
        assert 150 < len(passed) <= 200
        while await as_many_as_pass(running[:1], who, 100, name="more"):
            pass
        with pytest.raises(RefusedError) as refused:
            await admit(running[0], who, "one more")
        assert refused.value.code is ErrorCode.OVERLOADED
        assert "200" not in refused.value.public, "nobody learns of the whole service's figures"


async def test_what_requests_did_not_use_of_the_whole_services_tokens_is_given_back(redis_url: str) -> None:
    async with workers(redis_url, 1, global_limits=Limits(tokens_per_minute=10_000)) as (worker,):
        for number in range(40):
            ticket = await admit(worker, principal(), f"r{number}", max_tokens=1_000)
            ticket.settle(prompt_tokens=5, completion_tokens=5, cost_picodollars=0)
            await worker.pipe.flushed(10)

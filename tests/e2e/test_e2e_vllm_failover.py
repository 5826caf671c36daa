"""Two real engines, one of which dies while streams run: their clients read what they would have read."""

import asyncio
from typing import Any

import httpx

from crosslogic_dev.suite import Suite
from tests.chaos.clients import Asked, Client
from tests.chaos.oracle import Undisturbed
from tests.fakes.e2e_ledger import Ledger

STREAMS = 8
TOKENS = 1200
CHUNKS_BEFORE = 30
RUNNING = "vllm:num_requests_running{"


def _asked(suite: Suite, number: int) -> Asked:
    body: dict[str, Any] = {
        "model": suite.model_name,
        "max_tokens": TOKENS + number,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if number % 2:
        return Asked("completions", body | {"prompt": f"Once upon {number} times"})
    # A string that is never said is held back for all the same.
    stop = {"stop": ["never ever said"]} if number % 4 else {}
    return Asked("chat", body | stop | {"messages": [{"role": "user", "content": f"Tell me {number} things"}]})


async def _at_work(suite: Suite, engines: httpx.AsyncClient, number: int) -> int:
    """How many requests an engine generates for at this moment, by its own count."""
    metrics = (await engines.get(f"http://{suite.target(f'engine-{number}')}/metrics")).text
    return sum(int(float(line.split()[-1])) for line in metrics.splitlines() if line.startswith(RUNNING))


async def _kill_the_busier(suite: Suite, engines: httpx.AsyncClient, asked: list[Asked]) -> None:
    """Kills a node in the midst of its streams. Which engine is ahead, and has ended its own, is up to the machine."""
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0.01)
            under_way = [each for each in asked if not each.complete]
            assert under_way, "all streams ended before a node was seen at work"
            if max(each.chunks for each in under_way) < CHUNKS_BEFORE:
                continue
            work = {number: await _at_work(suite, engines, number) for number in (1, 2)}
            busier = max(work, key=work.__getitem__)
            if work[busier]:
                await asyncio.to_thread(suite.kill, f"node_agent-{busier}")
                return


async def test_a_real_engine_dies_and_every_stream_goes_on_to_the_same_end(vllm: Suite) -> None:
    async with Client(vllm) as client, httpx.AsyncClient(trust_env=False, timeout=30) as engines:
        before = [_asked(vllm, number) for number in range(STREAMS)]
        await asyncio.gather(*(client.ask(each) for each in before))
        assert all(each.complete for each in before), [(each.error, each.broke) for each in before]
        asked = [_asked(vllm, number) for number in range(STREAMS)]
        for calm, each in zip(before, asked, strict=True):
            usage = calm.usage
            assert usage is not None
            ids = (0,) * usage["completion_tokens"]
            each.own_oracle = Undisturbed(calm.text, ids, usage["prompt_tokens"], calm.finish_reasons[0])
        running = [asyncio.create_task(client.ask(each)) for each in asked]
        await _kill_the_busier(vllm, engines, asked)
        await asyncio.gather(*running)
    assert {number: each.faults() for number, each in enumerate(asked) if each.faults()} == {}
    ledger = Ledger(vllm)
    entries = ledger.holding({each.request_id for each in asked})
    assert [entries[each.request_id].times for each in asked] == [1] * STREAMS
    assert [entries[each.request_id].tokens for each in asked] == [each.expected.tokens for each in asked]
    assert ledger.failed_over(each.request_id for each in asked) > 0, "the engine that died had nothing to do"

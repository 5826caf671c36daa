"""`make trial-nodes`: many streams on many nodes, one of which dies every few seconds; no client may notice.

Each client runs one request after the other for as long as nodes are killed. Told at the end: requests, failures,
corrupted streams, bills that differ, and how long streams stood still for a death.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass

from crosslogic_dev.suite import Suite
from tests.chaos.checker import check_bills, check_books
from tests.chaos.clients import Asked, Client
from tests.chaos.world import World, chaos_suite

BACK_AFTER_S = 2.0
"""How long a node is gone before its machine starts it again."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How much of it."""

    nodes: int = 20
    streams: int = 500
    seconds: float = 300.0
    kill_every_s: float = 5.0
    step_ms: float = 250.0
    tokens: int = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    requests: int
    tokens: int
    kills: int
    failed_over: int
    failed: int
    corrupted: int
    added_stall_p50_s: float
    added_stall_p99_s: float
    added_stall_max_s: float
    calm_gap_p99_s: float
    """The longest pause of streams that lost no node, at the 99th percentile: what the machine itself adds."""


async def run_trial(suite: Suite, trial: Trial, *, seed: int) -> Outcome:
    """Runs it on a suite that is up. Raises AssertionError when a bill is wrong."""
    chance = random.Random(seed)
    async with Client(suite) as client:
        world = World(suite, client, chance, tokens=trial.tokens)
        asked: list[Asked] = []
        until = time.monotonic() + trial.seconds
        killing = asyncio.create_task(_kill(world, trial, until))
        await asyncio.gather(*(_one_client(world, asked, until, trial) for _ in range(trial.streams)))
        kills = await killing
    # No client waits any longer: from here on the loop may be blocked.
    world.wait_active()
    check_bills(world, asked)
    check_books(world)
    broken = [each for each in asked if not each.complete]
    for each in broken[:5]:
        print(f"failed: {each.request_id} {each.status} {each.error} {each.broke}", file=sys.stderr)
    corrupted = [each for each in asked if each.complete and each.faults()]
    for each in corrupted[:5]:
        print(f"corrupted: {each.request_id} {each.faults()}", file=sys.stderr)
    hit = world.ledger.which_failed_over(each.request_id for each in asked)
    step_s = trial.step_ms / 1000
    for each in sorted(asked, key=lambda each: -each.longest_gap_s)[:3]:
        print(f"stood still: {each.request_id} {each.longest_gap_s:.3f} s", file=sys.stderr)
    stalls = sorted(max(each.longest_gap_s - step_s, 0.0) for each in asked if each.stream and each.request_id in hit)
    calm = sorted(each.longest_gap_s - step_s for each in asked if each.stream and each.request_id not in hit)
    return Outcome(
        requests=len(asked),
        tokens=sum(each.expected.tokens[1] for each in asked if each.complete),
        kills=kills,
        failed_over=len(hit),
        failed=len(broken),
        corrupted=len(corrupted),
        added_stall_p50_s=_percentile(stalls, 0.50),
        added_stall_p99_s=_percentile(stalls, 0.99),
        added_stall_max_s=stalls[-1] if stalls else 0.0,
        calm_gap_p99_s=_percentile(calm, 0.99),
    )


async def _one_client(world: World, asked: list[Asked], until: float, trial: Trial) -> None:
    # Not all at the same moment, nor with the same length: else all streams would end together.
    await asyncio.sleep(world.chance.random() * min(trial.tokens * trial.step_ms / 1000, trial.seconds / 2))
    while time.monotonic() < until:
        length = world.chance.randrange(trial.tokens // 2, trial.tokens)
        each = world.a_request(len(asked), stream=True, max_tokens=length)
        asked.append(each)
        await world.client.ask(each)


async def _kill(world: World, trial: Trial, until: float) -> int:
    kills = 0
    returning: set[asyncio.Task[None]] = set()
    while time.monotonic() + trial.kill_every_s < until:
        await asyncio.sleep(trial.kill_every_s)
        alive = [number for number in world.node_numbers() if world.suite.pid(f"node_agent-{number}") is not None]
        victim = world.chance.choice(alive)
        await world.kill_node(victim)
        kills += 1
        back = asyncio.create_task(_come_back(world, victim))
        returning.add(back)
        back.add_done_callback(returning.discard)
    await asyncio.gather(*returning)
    return kills


async def _come_back(world: World, number: int) -> None:
    await asyncio.sleep(BACK_AFTER_S)
    await asyncio.to_thread(world.suite.start, f"node_agent-{number}", wait=False)


def _percentile(ordered: list[float], part: float) -> float:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else 0.0


def main() -> int:
    """Exit status 1 when a client noticed or a bill is wrong."""
    parser = argparse.ArgumentParser(prog="make trial-nodes", description=__doc__)
    for name, default in asdict(Trial()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    seed = options.pop("seed")
    trial = Trial(**options)
    with chaos_suite(nodes=trial.nodes, step_ms=trial.step_ms) as suite:
        outcome = asyncio.run(run_trial(suite, trial, seed=seed))
    print(json.dumps(asdict(outcome), indent=2))
    return 1 if outcome.failed or outcome.corrupted else 0


if __name__ == "__main__":
    sys.exit(main())

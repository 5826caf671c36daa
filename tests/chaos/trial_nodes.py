"""`make trial-nodes`: many streams on many nodes, one of which dies every few seconds; no client may notice.

Each client runs one request after the other for as long as nodes are killed. Told at the end: requests, failures,
corrupted streams, bills that differ, how long streams stood still for a death and where that time went, and how much of
the machine was in use: a machine that is full adds stalls of its own (`calm_gap`).
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from statistics import mean

from benchmarks.measure import busy_share, core_times, cpu_s
from crosslogic_dev.suite import Suite
from tests.chaos.checker import check_bills, check_books
from tests.chaos.clients import Asked, Client
from tests.chaos.stalls import Percentiles, Stall, percentiles, stalls
from tests.chaos.trial_options import trial_and_seed
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
    added_stall: Percentiles
    """The longest pause of streams whose node died, less the time of a token."""
    calm_gap: Percentiles
    """The same of streams that lost no node: what the machine itself adds."""
    unseen: Percentiles
    """Of the stalls: until the gateway knew that the node was dead."""
    retries: Percentiles
    """Of the stalls: other nodes that failed as well."""
    said_again: Percentiles
    """Of the stalls: text that was held back for stop strings is generated anew, a token's time for each token."""
    resume: Percentiles
    """Of the stalls: until the next token came from the node that went on."""
    processor_busy: float
    """Share of all processors, 0 to 1."""
    gateway_busy: float
    """Of one processor."""


async def run_trial(suite: Suite, trial: Trial, *, seed: int) -> Outcome:
    """Runs it on a suite that is up. Raises AssertionError when a bill is wrong."""
    chance = random.Random(seed)
    async with Client(suite) as client:
        world = World(suite, client, chance, tokens=trial.tokens)
        asked: list[Asked] = []
        began = time.monotonic()
        until = began + trial.seconds
        before, gateway_before_s = _processors(), _gateway_s(suite)
        killing = asyncio.create_task(_kill(world, trial, until))
        await asyncio.gather(*(_one_client(world, asked, until, trial) for _ in range(trial.streams)))
        kills = await killing
        took_s = time.monotonic() - began
        gateway_busy = (_gateway_s(suite) - gateway_before_s) / took_s
        processor_busy = mean(map(busy_share, before, _processors()))
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
    where = stalls(asked, hit, kills, log=suite.log("gateway"), step_s=step_s)
    _tell_worst(where)
    return Outcome(
        requests=len(asked),
        tokens=sum(each.expected.tokens[1] for each in asked if each.complete),
        kills=len(kills),
        failed_over=len(hit),
        failed=len(broken),
        corrupted=len(corrupted),
        added_stall=percentiles(
            max(each.longest_gap_s - step_s, 0.0) for each in asked if each.stream and each.request_id in hit
        ),
        calm_gap=percentiles(
            max(each.longest_gap_s - step_s, 0.0) for each in asked if each.stream and each.request_id not in hit
        ),
        unseen=percentiles(each.unseen_s for each in where),
        retries=percentiles(each.retries_s for each in where),
        said_again=percentiles(each.said_again_s for each in where),
        resume=percentiles(each.resume_s for each in where),
        processor_busy=processor_busy,
        gateway_busy=gateway_busy,
    )


def _tell_worst(where: list[Stall]) -> None:
    for each in sorted(where, key=lambda each: -each.whole_s)[:5]:
        print(f"stood still: {each}", file=sys.stderr)


def _processors() -> list[tuple[int, ...]]:
    return [core_times(core) for core in sorted(os.sched_getaffinity(0))]


def _gateway_s(suite: Suite) -> float:
    pid = suite.pid("gateway")
    assert pid is not None, "the gateway is gone"
    return cpu_s(pid)


async def _one_client(world: World, asked: list[Asked], until: float, trial: Trial) -> None:
    # Not all at the same moment, nor with the same length: else all streams would end together.
    await asyncio.sleep(world.chance.random() * min(trial.tokens * trial.step_ms / 1000, trial.seconds / 2))
    while time.monotonic() < until:
        length = world.chance.randrange(trial.tokens // 2, trial.tokens)
        each = world.a_request(len(asked), stream=True, max_tokens=length)
        asked.append(each)
        await world.client.ask(each)


async def _kill(world: World, trial: Trial, until: float) -> list[float]:
    """When it killed, on the monotonic clock."""
    kills: list[float] = []
    returning: set[asyncio.Task[None]] = set()
    while time.monotonic() + trial.kill_every_s < until:
        await asyncio.sleep(trial.kill_every_s)
        alive = [number for number in world.node_numbers() if world.suite.pid(f"node_agent-{number}") is not None]
        victim = world.chance.choice(alive)
        kills.append(time.monotonic())
        await world.kill_node(victim)
        back = asyncio.create_task(_come_back(world, victim))
        returning.add(back)
        back.add_done_callback(returning.discard)
    await asyncio.gather(*returning)
    return kills


async def _come_back(world: World, number: int) -> None:
    await asyncio.sleep(BACK_AFTER_S)
    await asyncio.to_thread(world.suite.start, f"node_agent-{number}", wait=False)


def main() -> int:
    """Exit status 1 when a client noticed or a bill is wrong."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    trial, seed = trial_and_seed(Trial(), prog="make trial-nodes", about=__doc__)
    with chaos_suite(nodes=trial.nodes, step_ms=trial.step_ms) as suite:
        outcome = asyncio.run(run_trial(suite, trial, seed=seed))
    print(json.dumps(asdict(outcome), indent=2))
    return 1 if outcome.failed or outcome.corrupted else 0


if __name__ == "__main__":
    sys.exit(main())

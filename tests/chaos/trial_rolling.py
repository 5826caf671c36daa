"""`make trial-rolling`: every process of the suite is replaced, one after the other, under a steady load; no client may
notice.

As Kubernetes does it: a gateway leaves the balancer first (its preStop), then gets SIGTERM, and its successor gets
connections once it is ready. The services of the control plane, which have replicas there, have none here: each is
away until its successor runs. Nodes get SIGTERM with streams under way. A process that is not gone 30 s after SIGTERM
has failed.
"""

import asyncio
import json
import random
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

from crosslogic_dev.ports import free_port
from crosslogic_dev.suite import Suite
from crosslogic_dev.topology import SERVICES
from tests.chaos.checker import check_bills, check_books
from tests.chaos.clients import Asked, Client
from tests.chaos.trial_options import trial_and_seed
from tests.chaos.world import World, chaos_suite
from tests.fakes.tcp_balancer import TcpBalancer

GATEWAYS = ("gateway", "gateway-2")
GRACE_S = 30.0
READY_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Trial:
    """How much of it."""

    rate: float = 100.0
    """Requests a second."""
    nodes: int = 3
    step_ms: float = 30.0
    tokens: int = 16
    rounds: int = 2
    """How often everything is replaced."""
    pre_stop_s: float = 5.0
    """Between leaving the balancer and SIGTERM."""
    pause_s: float = 2.0
    """From one replacement to the next."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    began_at: float = 0.0
    requests: int = 0
    per_second: float = 0.0
    failed: int = 0
    corrupted: int = 0
    failed_over: int = 0
    connections: int = 0
    slowest_s: float = 0.0
    longest_gap_s: float = 0.0
    gone_after_s: dict[str, float] = field(default_factory=dict)
    """From SIGTERM to the process's end, the longest of each."""
    away_s: dict[str, float] = field(default_factory=dict)
    """From SIGTERM until its successor serves, the longest of each."""


@dataclass(frozen=True, slots=True)
class _Front:
    """What clients connect to."""

    balancer: TcpBalancer
    gateways: dict[str, str]
    """host:port of each gateway."""


def everything(nodes: int) -> list[tuple[str, ...]]:
    """All processes, each by itself."""
    return [(name,) for name in (*SERVICES, *GATEWAYS, *(f"node_agent-{number}" for number in range(1, nodes + 1)))]


async def run_trial(suite: Suite, trial: Trial, groups: Sequence[Sequence[str]], *, seed: int) -> Outcome:
    """Runs it on a suite that is up; the processes of a group are replaced at the same time.

    Raises AssertionError when a bill is wrong or a process does not end in time.
    """
    outcome = Outcome()
    asked: list[Asked] = []
    async with _two_gateways(suite) as front:
        async with Client(suite, base_url=f"http://127.0.0.1:{front.balancer.port}") as client:
            world = World(suite, client, random.Random(seed), tokens=trial.tokens)
            outcome.began_at = time.monotonic()
            replaced = asyncio.create_task(_replace_all(world, trial, groups, front, outcome))
            await _load(world, asked, trial, replaced)
            await replaced
            outcome.per_second = len(asked) / (time.monotonic() - outcome.began_at)
        outcome.connections = sum(front.balancer.given.values())
        world.wait_active()
        check_bills(world, asked)
        check_books(world)
    _judge(world, asked, outcome)
    return outcome


def _judge(world: World, asked: Sequence[Asked], outcome: Outcome) -> None:
    broken = [each for each in asked if not each.complete]
    for (status, error, broke), times in Counter(
        (each.status, json.dumps(each.error), each.broke) for each in broken
    ).most_common(10):
        print(f"failed {times} times: {status} {error} {broke}", file=sys.stderr)
    corrupted = [each for each in asked if each.complete and each.faults()]
    for each in corrupted[:5]:
        print(f"corrupted: {each.request_id} {each.faults()}", file=sys.stderr)
    for each in sorted(asked, key=lambda each: -each.longest_gap_s)[:5]:
        gap = f"{each.longest_gap_s:.2f} s without a word, ended at {each.last_at - outcome.began_at:.1f} s"
        print(f"stood still: {each.request_id} {gap}, streamed: {each.stream}", file=sys.stderr)
    outcome.requests = len(asked)
    outcome.failed = len(broken)
    outcome.corrupted = len(corrupted)
    outcome.failed_over = world.ledger.failed_over(each.request_id for each in asked)
    outcome.slowest_s = max(each.last_at - each.began_at for each in asked)
    outcome.longest_gap_s = max(each.longest_gap_s for each in asked)


@asynccontextmanager
async def _two_gateways(suite: Suite) -> AsyncIterator[_Front]:
    other = f"127.0.0.1:{free_port()}"
    await asyncio.to_thread(suite.start_beside, "gateway", GATEWAYS[1], CROSSLOGIC_HTTP_LISTEN=other)
    try:
        await asyncio.to_thread(_wait_ready, other)
        async with TcpBalancer() as balancer:
            front = _Front(balancer, {GATEWAYS[0]: suite.target("gateway"), GATEWAYS[1]: other})
            for target in front.gateways.values():
                balancer.add(target)
            yield front
    finally:
        if suite.pid(GATEWAYS[1]) is not None:
            await asyncio.to_thread(suite.kill, GATEWAYS[1], signal.SIGTERM)


async def _load(world: World, asked: list[Asked], trial: Trial, until: "asyncio.Task[None]") -> None:
    """A request every so often, however long the others take."""
    running: set[asyncio.Task[Asked]] = set()
    due = time.monotonic()
    while not until.done():
        due += 1.0 / trial.rate
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
        each = world.a_request(len(asked))
        asked.append(each)
        task = asyncio.create_task(world.client.ask(each))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)


async def _replace_all(
    world: World, trial: Trial, groups: Sequence[Sequence[str]], front: _Front, outcome: Outcome
) -> None:
    for _ in range(trial.rounds):
        for group in groups:
            await asyncio.sleep(trial.pause_s)
            await asyncio.gather(*(_replace(world, trial, name, front, outcome) for name in group))
    await asyncio.sleep(trial.pause_s)


async def _replace(world: World, trial: Trial, name: str, front: _Front, outcome: Outcome) -> None:
    if name in front.gateways:
        front.balancer.remove(front.gateways[name])
        await asyncio.sleep(trial.pre_stop_s)
    told = time.monotonic()
    await asyncio.to_thread(world.suite.kill, name, signal.SIGTERM)
    gone = time.monotonic() - told
    assert gone <= GRACE_S, f"{name} was still there {gone:.0f} s after SIGTERM"
    await asyncio.to_thread(world.suite.start, name)
    if name in front.gateways:
        await asyncio.to_thread(_wait_ready, front.gateways[name])
        front.balancer.add(front.gateways[name])
    if name.startswith("node_agent"):
        # The next node goes when this one works again, as a disruption budget has it.
        await asyncio.to_thread(world.wait_active)
    away = time.monotonic() - told
    at = told - outcome.began_at
    print(f"{at:.1f} s: {name} told; gone after {gone:.1f} s, back after {away:.1f} s", file=sys.stderr)
    outcome.gone_after_s[name] = round(max(gone, outcome.gone_after_s.get(name, 0.0)), 2)
    outcome.away_s[name] = round(max(away, outcome.away_s.get(name, 0.0)), 2)


def _wait_ready(target: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            with opener.open(f"http://{target}/ready", timeout=2) as answer:
                answer.read()
                return
        except OSError:
            assert time.monotonic() < until, f"the gateway at {target} is not ready after {READY_WITHIN_S:.0f} s"
            time.sleep(0.05)


def main() -> int:
    """Exit status 1 when a client noticed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    trial, seed = trial_and_seed(Trial(), prog="make trial-rolling", about=__doc__)
    with chaos_suite(nodes=trial.nodes, step_ms=trial.step_ms) as suite:
        outcome = asyncio.run(run_trial(suite, trial, everything(trial.nodes), seed=seed))
    print(json.dumps(asdict(outcome), indent=2))
    return 1 if outcome.failed or outcome.corrupted else 0


if __name__ == "__main__":
    sys.exit(main())

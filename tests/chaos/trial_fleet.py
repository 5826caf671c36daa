"""`make trial-fleet`: machines launched by two orchestrators, each of which is killed and stopped in turn.

Two orchestrators as processes over one PostgreSQL, one registry and one folder of machines, as an operator's replicas.
A stopped one wakes up after its leases ended. Meanwhile a deployment is kept, and operators are notified.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from crosslogic_dev.failure import DevError
from crosslogic_dev.ports import free_port
from crosslogic_dev.suite import Suite
from tests.chaos.world import NOTIFY_ALLOWED, ROOT
from tests.fakes.local_machines import agents_here
from tests.fakes.notify_receiver import Receiver, receiver

SECOND = "orchestrator-2"
REPLICAS = ("orchestrator", SECOND)
STOPPED_S = 36.0
"""Longer than the leases of jobs (30 s) and of the autoscaler (15 s)."""
PAUSES_S = (0.0, 2.5)
"""Between the launches that were asked for and what is done to a replica: a launch takes about 3 s here."""
TIMES = 6
END_WITHIN_S = 240.0
KEPT = 2
"""Machines that the deployment keeps."""
RECEIVER = "127.0.0.2"


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    launches: int = 0
    served: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    """To the replicas."""
    not_ended: int = 0
    launched_twice: int = 0
    most_machines: int = 0
    room: int = 0
    kept_most: int = 0
    """Machines that were ever launched for the deployment, which needs `KEPT`: none of them went."""
    leaked: int = 0
    lost: int = 0
    """Machines that somebody took for gone."""
    events: int = 0
    """Failed launches and machines that the deployment asked for."""
    told: int = 0
    """Events in messages, each message counted once."""
    told_again: int = 0
    """Messages that came again, under the same id."""
    seconds: float = 0.0

    @property
    def faults(self) -> list[str]:
        """What must not be."""
        return [
            words
            for words, is_so in (
                ("a job did not end", self.not_ended),
                ("a machine was launched twice", self.launched_twice),
                ("more machines than there is room for", self.most_machines > self.room),
                ("the deployment launched more than it needed", self.kept_most > KEPT),
                ("a machine was left", self.leaked),
                ("a machine that ran was taken for gone", self.lost),
                ("the machines that there was room for did not serve", self.served != self.room - KEPT),
                ("a launch that failed does not say why", any("no more" not in error for error in self.errors)),
                ("operators were not told of each event once", self.told != self.events),
                ("more messages came again than replicas went", self.told_again > sum(self.done.values())),
            )
            if is_so
        ]


def room_for(launches: int) -> int:
    """Fewer than are asked for: the rest must fail, and say why."""
    return max(1, launches - 4) + KEPT


async def watch(suite: Suite, outcome: Outcome) -> None:
    """Looks at the machines' processes for ever."""
    while True:
        found = await asyncio.to_thread(agents_here, suite)
        outcome.launched_twice += sum(len(pids) > 1 for pids in found.values())
        outcome.most_machines = max(outcome.most_machines, len(found))
        await asyncio.sleep(0.3)


async def ask(suite: Suite, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer, when there is one: the replica that the gateway asks is away now and then."""
    async with asyncio.timeout(END_WITHIN_S):
        while True:
            try:
                answer = await asyncio.to_thread(suite.admin.ask, method, path, body)
            except OSError:
                answer = None
            if answer is not None and answer.status < 500:
                assert answer.status < 400, (method, path, answer)
                return dict(answer.body)
            await asyncio.sleep(0.5)


async def ended(suite: Suite, job_id: str) -> dict[str, Any]:
    """The job, when it is over, or as it is when the time is."""
    until = time.monotonic() + END_WITHIN_S
    while True:
        job = await ask(suite, "GET", f"/admin/instances/{job_id}")
        if job["status"] != "running" or time.monotonic() > until:
            return job
        await asyncio.sleep(0.5)


async def disturb(suite: Suite, dice: random.Random, outcome: Outcome) -> list[dict[str, Any]]:
    """Kills and stops each replica in turn, while machines are launched. The jobs. One of them always runs."""
    body = {"model_name": suite.model_name, "provider": "local", "region": "local"}
    jobs: list[dict[str, Any]] = []
    for number in range(TIMES):
        left = outcome.launches - len(jobs)
        asked = -(-left // (TIMES - number))
        jobs += [await ask(suite, "POST", "/admin/instances/launch", body) for _ in range(asked)]
        await asyncio.sleep(dice.uniform(*PAUSES_S))
        name = REPLICAS[number % 2]
        stopped = number % 3 != 2
        what = f"{'stopped' if stopped else 'killed'} {name}"
        print(what, file=sys.stderr)
        outcome.done[what] = outcome.done.get(what, 0) + 1
        if not stopped:
            await asyncio.to_thread(suite.restart, name)
            continue
        suite.kill(name, signal.SIGSTOP)
        await asyncio.sleep(STOPPED_S)
        suite.kill(name, signal.SIGCONT)
    return jobs


async def run_trial(suite: Suite, told: Receiver, *, launches: int, seed: int) -> Outcome:
    """Runs it on a suite with two orchestrators."""
    began = time.monotonic()
    outcome, dice = Outcome(launches=launches, room=room_for(launches)), random.Random(seed)
    model = suite.model_name
    url = f"http://{RECEIVER}:{told.port}/told"
    await ask(
        suite,
        "POST",
        "/admin/notifications/routes",
        {"name": "all", "channel": "webhook", "target": url, "gather_s": 0},
    )
    kept = {"model": model, "region": "local", "min_nodes": KEPT, "max_nodes": KEPT}
    deployment = await ask(suite, "POST", "/admin/deployments", kept)
    watching = asyncio.create_task(watch(suite, outcome))
    try:
        jobs = await disturb(suite, dice, outcome)
        ends = await asyncio.gather(*(ended(suite, job["id"]) for job in jobs))
        print(f"{time.monotonic() - began:.0f} s: launches over", file=sys.stderr)
        await see(suite, outcome, ends)
        await ask(suite, "DELETE", f"/admin/deployments/{deployment['id']}")
        served = [job["instance_id"] for job in ends if job["status"] == "succeeded"]
        stops = [
            await ask(suite, "POST", f"/admin/instances/{each}/terminate", {"drain_timeout_s": 1}) for each in served
        ]
        over = await asyncio.gather(*(ended(suite, job["id"]) for job in stops))
        outcome.not_ended += sum(job["status"] == "running" for job in over)
        await empty(suite)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    outcome.leaked = len(await asyncio.to_thread(agents_here, suite))
    outcome.events = KEPT + sum(outcome.errors.values())
    await heard(told, outcome)
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


async def see(suite: Suite, outcome: Outcome, ends: Sequence[dict[str, Any]]) -> None:
    """What became of the launches, and whether the database, the system and the registry say the same."""
    outcome.served = sum(job["status"] == "succeeded" for job in ends)
    outcome.not_ended = sum(job["status"] == "running" for job in ends)
    outcome.errors = dict(Counter(str(job["error"])[:160] for job in ends if job["status"] == "failed"))
    async with asyncio.timeout(END_WITHIN_S):
        while True:
            listed = (await ask(suite, "GET", "/admin/instances?include_ended=true&page_size=1000"))["data"]
            alive = {each["id"] for each in listed if each["state"] in ("active", "launching", "terminating")}
            if alive == (await asyncio.to_thread(agents_here, suite)).keys() and all(
                each["state"] == "active" for each in listed if each["id"] in alive
            ):
                break
            await asyncio.sleep(0.5)
    outcome.lost = sum(each["state"] == "lost" for each in listed)
    by_hand = {job["instance_id"] for job in ends}
    outcome.kept_most = sum(each["id"] not in by_hand for each in listed)


async def heard(told: Receiver, outcome: Outcome) -> None:
    """Counts what operators were told of. Messages come a moment after their events."""
    until = time.monotonic() + END_WITHIN_S
    while True:
        messages = {each.headers["webhook-id"]: json.loads(each.body)["data"]["count"] for each in told.got}
        outcome.told, outcome.told_again = sum(messages.values()), len(told.got) - len(messages)
        if outcome.told >= outcome.events or time.monotonic() > until:
            return
        await asyncio.sleep(0.2)


async def empty(suite: Suite) -> None:
    """Waits until no machine is left, or the time is over."""
    until = time.monotonic() + END_WITHIN_S
    while await asyncio.to_thread(agents_here, suite) and time.monotonic() < until:
        await asyncio.sleep(0.5)


@contextmanager
def two_orchestrators(*, room: int) -> Iterator[Suite]:
    """A suite with a second orchestrator beside its own."""
    settings = {
        "CROSSLOGIC_SWEEP_S": "1",
        "CROSSLOGIC_SCALE_S": "1",
        "CROSSLOGIC_LOCAL_MAX_MACHINES": str(room),
        "CROSSLOGIC_NOTIFY_ALLOWED_NETWORKS": NOTIFY_ALLOWED,
    }
    with Suite(engine="sim", nodes=1, root=ROOT, durable=False, settings={"orchestrator": settings}) as suite:
        own = {"CROSSLOGIC_LISTEN": free_port(), "CROSSLOGIC_METRICS_LISTEN": free_port()}
        suite.start_beside("orchestrator", SECOND, **{name: f"127.0.0.1:{port}" for name, port in own.items()})
        yield suite


async def whole_trial(suite: Suite, *, launches: int, seed: int) -> Outcome:
    """With somebody who is told of it."""
    async with receiver(RECEIVER) as told:
        return await run_trial(suite, told, launches=launches, seed=seed)


def main() -> int:
    """Exit status 1 when there was a fault."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    parser = argparse.ArgumentParser(prog="make trial-fleet", description=__doc__)
    parser.add_argument("--launches", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with two_orchestrators(room=room_for(options.launches)) as suite:
        try:
            outcome = asyncio.run(whole_trial(suite, launches=options.launches, seed=options.seed))
        except (DevError, TimeoutError, AssertionError):
            for name in REPLICAS:
                print(f"--- {name}\n{suite.log(name)[-6000:]}", file=sys.stderr)
            raise
    print(json.dumps({**asdict(outcome), "faults": outcome.faults}, indent=2))
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())

"""`make trial-skypilot`: the suite launches through SkyPilot's real API server on a fake of EC2, and is killed.

The orchestrator, PostgreSQL, SkyPilot's API server and its worker are killed at random, and started again. The first to
go is the API server, as soon as SkyPilot is at a launch: on a slow machine all others may come before it is.

A machine of the fake runs nothing: a real agent is started for it here, with a token of the operator's, and ends with
the machine. One launch of three asks for a place that has nothing to give; all others must serve, whoever was killed in
the middle of them.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crosslogic.registry.v1 import registry_pb2, registry_pb2_grpc
from crosslogic_common.tls import Channels
from crosslogic_dev.ports import free_port
from crosslogic_dev.suite import Suite
from tests.chaos.world import ROOT
from tests.fakes.skypilot_world import TWO_PLACES, SkyPilotWorld

KILLED = ("orchestrator", "postgres", "skypilot", "worker")
PAUSES_S = (5.0, 40.0)
"""Between one that was killed and is back, and the next. SkyPilot's API server takes long to be back by itself."""
LOOK_S = 3.0
END_WITHIN_S = 900.0
LIVE = ("pending", "running", "stopping", "stopped")
ASKED_AGAIN = "as when it was restarted meanwhile"
"""What a job's log says of a launch that SkyPilot forgot."""


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    launches: int = 0
    with_a_place: int = 0
    active: int = 0
    forgotten: int = 0
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    killed: dict[str, int] = field(default_factory=dict)
    machines_made: int = 0
    launched_twice: int = 0
    leaked: int = 0
    not_ended: int = 0
    seconds: float = 0.0


class Machines:
    """The agents of the fake's machines."""

    def __init__(self, suite: Suite, world: SkyPilotWorld, folder: Path) -> None:
        self._suite = suite
        self._world = world
        self._folder = folder
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        self.made: dict[str, set[str]] = {}
        """By our name of a machine, the cloud's names of what was made for it."""
        self.live: set[str] = set()

    async def follow(self) -> None:
        """Looks for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Starts agents where machines are, ends those whose machine is gone."""
        found = await asyncio.to_thread(self._world.instances)
        live = set()
        for each in found:
            tags = each["tags"]
            assert isinstance(tags, dict)
            name = str(tags["crosslogic-machine"])
            self.made.setdefault(name, set()).add(str(each["id"]))
            if each["state"] in LIVE:
                live.add(name)
        self.live = live
        for name in live - self._agents.keys():
            self._agents[name] = await self._agent(name)
        for name in self._agents.keys() - live:
            self._kill(name)

    def end(self) -> None:
        """Ends every agent."""
        for name in self._agents:
            self._kill(name)

    def _kill(self, name: str) -> None:
        if self._agents[name].poll() is None:
            os.killpg(self._agents[name].pid, signal.SIGKILL)
            self._agents[name].wait()

    async def _agent(self, name: str) -> subprocess.Popen[bytes]:
        folder = self._folder / name
        folder.mkdir()
        (folder / "token").write_text(await self._token(name))
        port, own = free_port(), f"127.0.0.1:{free_port()}"
        engine = [sys.executable, "-m", "crosslogic_sim_engine", "--port", str(port), "--model", self._suite.model_name]
        environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CROSSLOGIC_")},
            "CROSSLOGIC_TLS_CA_FILE": str(self._suite.run_dir.tls / "ca.pem"),
            "CROSSLOGIC_REGISTRY_TARGET": self._suite.target("registry"),
            "CROSSLOGIC_REGISTRY_JOIN_TARGET": self._suite.target("registry_join"),
            "CROSSLOGIC_JOIN_TOKEN_FILE": str(folder / "token"),
            "CROSSLOGIC_STATE_DIR": str(folder / "state"),
            "CROSSLOGIC_LISTEN": own,
            "CROSSLOGIC_ADVERTISE": own,
            "CROSSLOGIC_REGION": "local",
            "CROSSLOGIC_MODEL": self._suite.model_name,
            "CROSSLOGIC_ENGINE_URL": f"http://127.0.0.1:{port}",
            "CROSSLOGIC_ENGINE_COMMAND": json.dumps(engine),
        }
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "crosslogic_node_agent"],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _token(self, name: str) -> str:
        channels = Channels(self._suite.tls())
        try:
            channel = channels.service("registry", self._suite.target("registry"))
            registry: registry_pb2_grpc.RegistryServiceAsyncStub = registry_pb2_grpc.RegistryServiceStub(channel)
            while True:
                try:
                    answer = await registry.CreateJoinToken(
                        registry_pb2.CreateJoinTokenRequest(node_id=name), timeout=10
                    )
                except Exception:  # noqa: BLE001  # its database is killed too
                    await asyncio.sleep(1.0)
                else:
                    return answer.join_token
        finally:
            await channels.close()


class Jobs:
    """Launches and ends, asked for by the admin API, which is away now and then."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer, when there is one."""
        async with asyncio.timeout(END_WITHIN_S):
            while True:
                answer = await asyncio.to_thread(self._suite.admin.ask, method, path, body)
                if answer.status < 500:
                    assert answer.status < 400, (method, path, answer)
                    return dict(answer.body)
                await asyncio.sleep(1.0)

    async def launch(self, number: int) -> dict[str, Any]:
        """A job."""
        body = {
            "model_name": self._suite.model_name,
            "provider": "aws",
            "region": "us-east" if has_a_place(number) else "us",
            "instance_type": "A10G:1",
        }
        return dict(await asyncio.to_thread(self._suite.admin.must, "POST", "/admin/instances/launch", body))

    async def asked_for(self, job: dict[str, Any]) -> None:
        """Returns when SkyPilot is at the launch."""
        while job["status"] == "running" and all(each["step"] != "provisioning" for each in job["steps"]):
            await asyncio.sleep(0.5)
            job = await self.ask("GET", f"/admin/instances/{job['id']}")

    async def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job, when it is over, or as it is when the time is."""
        until = time.monotonic() + END_WITHIN_S
        while job["status"] == "running" and time.monotonic() < until:
            await asyncio.sleep(2.0)
            job = await self.ask("GET", f"/admin/instances/{job['id']}")
        return job


def has_a_place(number: int) -> bool:
    """Whether there is anything to give where this launch asks."""
    return number % 3 != 2


async def run_trial(suite: Suite, world: SkyPilotWorld, folder: Path, *, launches: int, seed: int) -> Outcome:
    """Runs it on a suite and a SkyPilot that are up."""
    began = time.monotonic()
    outcome, dice, jobs = Outcome(launches=launches), random.Random(seed), Jobs(suite)
    machines = Machines(suite, world, folder)
    asked = [await jobs.launch(number) for number in range(launches)]
    killing = asyncio.create_task(kill_all(suite, world, dice, outcome, jobs=jobs, first=asked[0]))
    following = asyncio.create_task(machines.follow())
    try:
        ends = await asyncio.gather(*(jobs.ended(job) for job in asked))
        print(f"{time.monotonic() - began:.0f} s: launches over", file=sys.stderr)
        active = [job for job in ends if job["status"] == "succeeded"]
        paths = [f"/admin/instances/{job['instance_id']}/terminate" for job in active]
        stops = [await jobs.ask("POST", path, {"drain_timeout_s": 1}) for path in paths]
        over = await asyncio.gather(*(jobs.ended(job) for job in stops))
    finally:
        for task in (killing, following):
            task.cancel()
        results = await asyncio.gather(killing, following, return_exceptions=True)
        machines.end()
    for result in results:
        if isinstance(result, Exception):
            raise result
    await machines.look()
    machines.end()
    outcome.with_a_place = sum(map(has_a_place, range(launches)))
    outcome.active = len(active)
    outcome.forgotten = sum(any(ASKED_AGAIN in line["text"] for line in job["logs"]) for job in ends)
    outcome.failed = sum(job["status"] == "failed" for job in ends)
    outcome.errors = dict(Counter(str(job["error"])[:160] for job in ends if job["status"] == "failed"))
    outcome.not_ended = sum(job["status"] == "running" for job in (*ends, *over))
    outcome.machines_made = sum(map(len, machines.made.values()))
    outcome.launched_twice = sum(len(made) > 1 for made in machines.made.values())
    outcome.leaked = len(machines.live)
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


async def kill_all(
    suite: Suite, world: SkyPilotWorld, dice: random.Random, outcome: Outcome, *, jobs: Jobs, first: dict[str, Any]
) -> None:
    """Kills one after the other, three more than there are launches; each is back before the next goes."""
    await jobs.asked_for(first)
    await kill(suite, world, "skypilot", outcome)
    for _ in range(outcome.launches + 2):
        await asyncio.sleep(dice.uniform(*PAUSES_S))
        await kill(suite, world, dice.choice(KILLED), outcome)


async def kill(suite: Suite, world: SkyPilotWorld, name: str, outcome: Outcome) -> None:
    """Kills it and has it back."""
    print(f"kills {name}", file=sys.stderr)
    if name == "skypilot":
        await asyncio.to_thread(world.restart_server)
    elif name == "worker":
        for pid in workers(suite):
            os.kill(pid, signal.SIGKILL)
    else:
        await asyncio.to_thread(suite.restart, name)
    outcome.killed[name] = outcome.killed.get(name, 0) + 1


def workers(suite: Suite) -> list[int]:
    """SkyPilot's worker, which the orchestrator has started."""
    found = []
    parent = suite.pid("orchestrator")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            its_parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"crosslogic_skypilot_worker" in command and its_parent == str(parent):
            found.append(int(folder.name))
    return found


@contextmanager
def suite_on(world: SkyPilotWorld, folder: Path) -> Iterator[Suite]:
    """A suite whose orchestrator launches through it."""
    (folder / "regions.toml").write_text(TWO_PLACES)
    orchestrator = {
        "CROSSLOGIC_SKYPILOT_WORKER": json.dumps([str(world.python), "-m", "crosslogic_skypilot_worker"]),
        "CROSSLOGIC_SKYPILOT_API": world.api,
        "CROSSLOGIC_SKYPILOT_WORKER_ENV": json.dumps(world.environ),
        "CROSSLOGIC_SKYPILOT_AGENT_ENV": json.dumps({"CROSSLOGIC_ENGINE_URL": "http://127.0.0.1:1"}),
        "CROSSLOGIC_REGIONS_FILE": str(folder / "regions.toml"),
        "CROSSLOGIC_SWEEP_S": "5",
    }
    with Suite(engine="sim", nodes=1, root=ROOT, durable=False, settings={"orchestrator": orchestrator}) as suite:
        yield suite


def main() -> int:
    """Exit status 1 when a machine was made twice or left, a job did not end, or one that has a place did not serve."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    parser = argparse.ArgumentParser(prog="make trial-skypilot", description=__doc__)
    parser.add_argument("--launches", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cl-sky-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "sky").mkdir()
        world = SkyPilotWorld(folder / "sky")
        try:
            world.start()
            with suite_on(world, folder) as suite:
                trial = run_trial(suite, world, folder, launches=options.launches, seed=options.seed)
                outcome = asyncio.run(trial)
        finally:
            world.stop()
    print(json.dumps(asdict(outcome), indent=2))
    lost = outcome.with_a_place - outcome.active
    return 1 if outcome.launched_twice or outcome.leaked or outcome.not_ended or lost else 0


if __name__ == "__main__":
    sys.exit(main())

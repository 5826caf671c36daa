"""`make trial-weights`: what becomes of a launch whose weights do not come, or come and go.

Machines of `local` load a model from a real S3 server, slowly, through a proxy. In mid-download the storage goes
silent, refuses, breaks off or is gone for good; the agent is stopped or killed; an operator ends the machine. A launch
serves once it can, or ends with a reason; nothing is left, and what the node serves is what was stored.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crosslogic_dev.suite import Suite
from crosslogic_model_store.fetch import CONNECTIONS
from crosslogic_model_store.local_model import read_model
from crosslogic_model_store.manifest import folder_name
from crosslogic_model_store.place import Place
from crosslogic_model_store.upload import Uploader
from tests.chaos.world import ROOT
from tests.fakes.local_machines import agents_here
from tests.fakes.s3_server import environ_of, s3_server
from tests.fakes.small_models import make_model
from tests.fakes.tcp_proxy import TcpProxy, Weather

MODEL = "stored"
LOADS_S = 5.0
"""For all of the weights, by the agent's eight connections."""
LOAD_TIMEOUT_S = 240
"""Of the orchestrator: of a storage that is gone for good it waits no longer."""
SHORT_S, LONG_S = 12.0, 75.0
"""The longer one is longer than what a fetch waits for an answer (30 s), and than a node may be silent."""
END_WITHIN_S = 420.0
TERMINATE_WITHIN_S = 12.0
"""Less than a machine of `local` has until it is killed."""
ANSWER_WITHIN_S = 5.0


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    launches: int = 0
    served: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """What a launch that did not serve said, by what was done to it."""
    took_s: dict[str, float] = field(default_factory=dict)
    """From the request to the end of the launch."""
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class World:
    """What is broken."""

    suite: Suite
    proxy: TcpProxy
    folder: str
    """Of the version, below a machine's folder of weights."""
    stored: Path
    """The model as it was stored."""
    weights_bytes: int

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the admin API, which is never away here."""
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return dict(await asyncio.to_thread(self.suite.admin.must, method, path, body))

    async def launch(self) -> dict[str, Any]:
        """A machine that loads the model."""
        return await self.ask(
            "POST", "/admin/instances/launch", {"model_name": MODEL, "provider": "local", "region": "local"}
        )

    async def job(self, job_id: str) -> dict[str, Any]:
        """As it is now."""
        return await self.ask("GET", f"/admin/instances/{job_id}")

    async def ended(self, job: dict[str, Any], within_s: float) -> dict[str, Any]:
        """The job, when it is over or the time is."""
        until = time.monotonic() + within_s
        while job["status"] == "running" and time.monotonic() < until:
            await asyncio.sleep(0.25)
            job = await self.job(job["id"])
        return job

    async def some_came(self, job: dict[str, Any], share: float) -> None:
        """Waits until so much of the weights has come."""
        async with asyncio.timeout(60):
            while True:
                loading = [step for step in (await self.job(job["id"]))["steps"] if step["step"] == "weights_loading"]
                if loading and loading[0]["bytes_done"] > share * self.weights_bytes:
                    return
                await asyncio.sleep(0.1)

    async def agents(self, machine: str) -> list[int]:
        """The processes of a machine's agent."""
        return (await asyncio.to_thread(agents_here, self.suite)).get(machine, [])

    async def signal_agent(self, machine: str, number: signal.Signals) -> None:
        """Sends a signal to a machine's agent."""
        for pid in await self.agents(machine):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


# What is done in mid-download. Each leaves the storage as it found it.


async def nothing(_world: World, _machine: str) -> None:
    """As it should be."""


async def silent_for_a_while(world: World, _machine: str) -> None:
    """Connections stay, nothing comes."""
    world.proxy.silence()
    await asyncio.sleep(SHORT_S)
    world.proxy.speak()


async def silent_for_long(world: World, _machine: str) -> None:
    """The same for longer than a fetch waits for an answer."""
    world.proxy.silence()
    await asyncio.sleep(LONG_S)
    world.proxy.speak()


async def refused(world: World, _machine: str) -> None:
    """Nobody listens, for longer than a block is tried for."""
    world.proxy.refuse()
    await world.proxy.cut()
    await asyncio.sleep(LONG_S)
    await world.proxy.accept_again()


async def cut_often(world: World, _machine: str) -> None:
    """Every connection is broken off, again and again."""
    for _ in range(8):
        await world.proxy.cut()
        await asyncio.sleep(0.7)


async def agent_stopped(world: World, machine: str) -> None:
    """The machine stands still, and goes on."""
    await world.signal_agent(machine, signal.SIGSTOP)
    await asyncio.sleep(SHORT_S)
    await world.signal_agent(machine, signal.SIGCONT)


async def agent_stopped_for_long(world: World, machine: str) -> None:
    """The same until its node is taken for dead."""
    await world.signal_agent(machine, signal.SIGSTOP)
    await asyncio.sleep(LONG_S)
    await world.signal_agent(machine, signal.SIGCONT)


async def agent_killed(world: World, machine: str) -> None:
    """The machine is gone."""
    await world.signal_agent(machine, signal.SIGKILL)


SERVES = (
    nothing,
    silent_for_a_while,
    silent_for_long,
    refused,
    cut_often,
    agent_stopped,
    agent_stopped_for_long,
)
FAILS = (agent_killed,)
Disturb = Callable[[World, str], Awaitable[None]]


async def one(world: World, disturb: Disturb, share: float, outcome: Outcome, *, serves: bool) -> None:
    """A launch that is disturbed once so much of its weights has come."""
    what, began = f"{disturb.__name__} at {share:.0%}", time.monotonic()
    job = await world.launch()
    outcome.launches += 1
    await world.some_came(job, share)
    await disturb(world, job["instance_id"])
    job = await world.ended(job, END_WITHIN_S)
    outcome.took_s[what] = round(time.monotonic() - began, 1)
    print(f"{what}: {job['status']} after {outcome.took_s[what]} s. {job['error'] or ''}", file=sys.stderr)
    if job["status"] == "running":
        outcome.faults.append(f"{what}: the launch hangs at {job['steps'][-1]}")
    elif job["status"] == "succeeded":
        outcome.served += 1
        if not serves:
            outcome.faults.append(f"{what}: a machine that is gone serves")
        differing = await asyncio.to_thread(_differing, world, job["instance_id"])
        if differing:
            outcome.faults.append(f"{what}: {differing} is not what was stored")
    else:
        outcome.failed[what] = job["error"]
        if serves:
            outcome.faults.append(f"{what}: {job['error']}")
    await clear(world, job, outcome, what)


async def ended_under_way(world: World, outcome: Outcome) -> None:
    """A machine that an operator ends while the storage is silent ends at once."""
    job = await world.launch()
    outcome.launches += 1
    await world.some_came(job, 0.2)
    world.proxy.silence()
    await asyncio.sleep(2)
    await clear(world, job, outcome, "ended while the storage is silent")
    world.proxy.speak()
    outcome.failed["ended while the storage is silent"] = (await world.job(job["id"]))["error"]


async def gone_for_good(world: World, outcome: Outcome) -> None:
    """A storage that does not come back: the launch gives up, and says why."""
    began = time.monotonic()
    job = await world.launch()
    outcome.launches += 1
    await world.some_came(job, 0.2)
    world.proxy.refuse()
    await world.proxy.cut()
    job = await world.ended(job, END_WITHIN_S)
    what = "the storage is gone for good"
    outcome.took_s[what] = round(time.monotonic() - began, 1)
    outcome.failed[what] = job["error"]
    print(f"{what}: {job['status']} after {outcome.took_s[what]} s. {job['error']}", file=sys.stderr)
    if job["status"] != "failed" or "cannot be fetched" not in job["error"]:
        outcome.faults.append(f"{what}: {job['status']}, {job['error']}")
    await clear(world, job, outcome, what)
    await world.proxy.accept_again()


async def clear(world: World, job: dict[str, Any], outcome: Outcome, what: str) -> None:
    """Ends the machine; nothing of it may be left."""
    began = time.monotonic()
    end = await world.ask("POST", f"/admin/instances/{job['instance_id']}/terminate", {"drain_timeout_s": 0})
    end = await world.ended(end, TERMINATE_WITHIN_S)
    print(f"{what}: ended in {time.monotonic() - began:.1f} s", file=sys.stderr)
    if end["status"] != "succeeded":
        outcome.faults.append(f"{what}: the machine's end is {end['status']} after {TERMINATE_WITHIN_S} s")
    if left := await world.agents(job["instance_id"]):
        outcome.faults.append(f"{what}: agents are left: {left}")


def _differing(world: World, machine: str) -> str:
    """A file of the machine's weights that is not as it was stored."""
    fetched = next((world.suite.run_dir.machines / machine).rglob(world.folder), None)
    if fetched is None:
        return "the folder of weights"
    for file in fetched.glob("*.safetensors"):
        if file.read_bytes() != (world.stored / file.name).read_bytes():
            return file.name
    return ""


async def run_trial(world: World, disturbs: Sequence[Disturb], *, seed: int, for_good: bool) -> Outcome:
    """Runs it. With `for_good` the storage is gone at the end."""
    outcome, dice, began = Outcome(), random.Random(seed), time.monotonic()
    for disturb in disturbs:
        await one(world, disturb, dice.uniform(0.05, 0.8), outcome, serves=disturb not in FAILS)
    await ended_under_way(world, outcome)
    if for_good:
        await gone_for_good(world, outcome)
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


@contextlib.asynccontextmanager
async def world(folder: Path, place: Place, *, weights_bytes: int) -> AsyncIterator[World]:
    """A suite whose machines reach the storage through a proxy."""
    made = make_model(folder / "model", weights_bytes=weights_bytes, shards=CONNECTIONS)
    local = read_model(made, MODEL, licence="mit")
    await asyncio.to_thread(Uploader(place).upload, local)
    real = urlsplit(place.endpoint)
    async with TcpProxy(str(real.hostname), int(real.port or 0)) as proxy, contextlib.AsyncExitStack() as stack:
        proxy.weather["back"] = Weather(bytes_per_s=weights_bytes / LOADS_S / CONNECTIONS)
        engine = [sys.executable, "-m", "crosslogic_sim_engine", "--port", "{port}", "--model", MODEL]
        settings = {
            "registry": {**environ_of(place), "S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}"},
            "orchestrator": {"CROSSLOGIC_LOAD_TIMEOUT_S": str(LOAD_TIMEOUT_S), "CROSSLOGIC_SWEEP_S": "1"},
            "machine": {
                "CROSSLOGIC_WEIGHTS_SOURCE": "store",
                "CROSSLOGIC_ENGINE_COMMAND": json.dumps(engine),
                "CROSSLOGIC_MODEL": MODEL,
            },
        }
        suite = Suite(engine="sim", nodes=1, root=ROOT, durable=False, settings=settings)
        await asyncio.to_thread(suite.__enter__)
        stack.push_async_callback(asyncio.to_thread, suite.close)
        made_world = World(suite, proxy, folder_name(MODEL, local.manifest.revision), made, weights_bytes)
        await made_world.ask("POST", "/admin/model-versions", {"manifest": local.manifest.to_json().decode()})
        registered = {"model": MODEL, "environment": "production", "version": local.manifest.revision}
        prices = {"input_usd_per_million": "1", "output_usd_per_million": "1", "context_length": 2048}
        await made_world.ask("POST", "/admin/registered-models", {**registered, **prices})
        yield made_world


async def whole_trial(*, seed: int) -> Outcome:
    """With a storage of its own."""
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as place:
        async with world(Path(folder), place, weights_bytes=96 * 2**20) as running:
            try:
                outcome = await run_trial(running, (*SERVES, *FAILS), seed=seed, for_good=True)
            except BaseException:
                print(f"--- orchestrator\n{running.suite.log('orchestrator')[-6000:]}", file=sys.stderr)
                raise
            if outcome.faults:
                for name in ("orchestrator", "registry"):
                    print(f"--- {name}\n{running.suite.log(name)[-6000:]}", file=sys.stderr)
            return outcome


def main() -> int:
    """Exit status 1 when there was a fault."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    parser = argparse.ArgumentParser(prog="make trial-weights", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    outcome = asyncio.run(whole_trial(seed=parser.parse_args().seed))
    print(json.dumps(asdict(outcome), indent=2))
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())

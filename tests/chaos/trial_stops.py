"""`make trial-stops`: the registry stopped or killed at each step of a launch and of an end, and in mid-promotion.

A launch goes on once the registry is back, or says why it does not; what does not need the registry is answered
meanwhile. A model is promoted and taken back with the registry and PostgreSQL killed under it: one version is in
production after each, and a repeat with the same `Idempotency-Key` has the same answer.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp

from crosslogic_dev.ports import free_port
from crosslogic_dev.suite import Suite
from crosslogic_model_store.local_model import read_model
from tests.chaos.world import ROOT
from tests.fakes.local_machines import agents_here
from tests.fakes.small_models import make_model

MOMENTS_S = (0.0, 0.05, 0.2, 0.5, 0.9, 1.3, 1.7, 2.2, 2.8)
"""After the launch was asked for: a launch alone takes about 3 s here."""
STOPPED_S = (3.0, 20.0)
"""The shorter one nobody notices; during the longer one every connection to the registry is given up."""
ANSWER_WITHIN_S = 12.0
"""Of the admin API, whatever is stopped."""
END_WITHIN_S = 90.0
MODEL = "promoted"


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    launches: int = 0
    served: int = 0
    errors: list[str] = field(default_factory=list)
    stopped_at: dict[str, int] = field(default_factory=dict)
    """How often the registry was stopped while a job stood at this step."""
    longest_answer_s: float = 0.0
    refusals: dict[str, int] = field(default_factory=dict)
    """What the admin API answered while it could not."""
    promotions: int = 0
    repeated: int = 0
    """Requests that were asked again under their key."""
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Operator:
    """Asks the admin API, and notes what it is told while something is away."""

    def __init__(self, suite: Suite, client: aiohttp.ClientSession, outcome: Outcome) -> None:
        self._suite = suite
        self._client = client
        self._outcome = outcome

    async def once(self, method: str, path: str, body: object = None, *, key: str = "") -> tuple[int, dict[str, Any]]:
        """One request. Status 0: no answer."""
        headers = {"X-Admin-Token": self._suite.admin.token, **({"Idempotency-Key": key} if key else {})}
        began = time.monotonic()
        try:
            async with self._client.request(method, self._suite.base_url + path, json=body, headers=headers) as answer:
                status, said = answer.status, dict(await answer.json())
        except (aiohttp.ClientError, TimeoutError) as error:
            status, said = 0, {"error": {"message": repr(error)}}
        took_s = time.monotonic() - began
        self._outcome.longest_answer_s = round(max(self._outcome.longest_answer_s, took_s), 1)
        if status == 0 or status >= 400:
            words = f"{status} {said.get('error', {}).get('message', said)}"[:160]
            self._outcome.refusals[words] = self._outcome.refusals.get(words, 0) + 1
        return status, said

    async def ask(self, method: str, path: str, body: object = None, *, key: str = "") -> dict[str, Any]:
        """The answer, when there is one."""
        async with asyncio.timeout(END_WITHIN_S):
            while True:
                status, said = await self.once(method, path, body, key=key)
                if status and status < 500:
                    assert status < 400, (method, path, said)
                    return said
                await asyncio.sleep(0.3)


async def ended(operator: Operator, job: dict[str, Any], outcome: Outcome, what: str) -> dict[str, Any]:
    """The job, when it is over."""
    until = time.monotonic() + END_WITHIN_S
    while job["status"] == "running":
        if time.monotonic() > until:
            outcome.faults.append(f"{what}: the job hangs at {job['steps'][-1]}")
            break
        await asyncio.sleep(0.3)
        job = await operator.ask("GET", f"/admin/instances/{job['id']}")
    return job


async def stop_for(suite: Suite, operator: Operator, job_id: str, outcome: Outcome, seconds: float) -> None:
    """Stops the registry; meanwhile the job can be read, and what cannot be done is said."""
    suite.kill("registry", signal.SIGSTOP)
    try:
        until = time.monotonic() + seconds
        status, job = await operator.once("GET", f"/admin/instances/{job_id}")
        if status != 200:
            outcome.faults.append(f"a job cannot be read while the registry is stopped: {status} {job}")
        else:
            step = job["steps"][-1]["step"]
            outcome.stopped_at[step] = outcome.stopped_at.get(step, 0) + 1
        if seconds > ANSWER_WITHIN_S:
            await operator.once("POST", "/admin/instances/launch", {**ASKED, "model_name": suite.model_name})
        await asyncio.sleep(max(0.0, until - time.monotonic()))
    finally:
        suite.kill("registry", signal.SIGCONT)


ASKED = {"provider": "local", "region": "local"}


async def launches(suite: Suite, operator: Operator, outcome: Outcome, stopped_s: float) -> None:
    """A launch for each moment, and its end."""
    for moment_s in MOMENTS_S:
        body = {**ASKED, "model_name": suite.model_name}
        job = await operator.ask("POST", "/admin/instances/launch", body)
        outcome.launches += 1
        await asyncio.sleep(moment_s)
        await stop_for(suite, operator, job["id"], outcome, stopped_s)
        job = await ended(operator, job, outcome, f"launch, registry stopped at {moment_s} s")
        if job["status"] == "succeeded":
            outcome.served += 1
        else:
            outcome.errors.append(str(job["error"]))
        path = f"/admin/instances/{job['instance_id']}/terminate"
        end = await operator.ask("POST", path, {"drain_timeout_s": 1})
        await asyncio.sleep(moment_s / 4)
        await stop_for(suite, operator, end["id"], outcome, stopped_s)
        await ended(operator, end, outcome, f"end, registry stopped at {moment_s / 4} s")
        # One that was asked for while it could not be looked up was refused, or is a machine of its own.
        for each in (await operator.ask("GET", "/admin/instances"))["data"]:
            job = await operator.ask("POST", f"/admin/instances/{each['id']}/terminate", {"drain_timeout_s": 0})
            await ended(operator, job, outcome, "clearing")
        left = await asyncio.to_thread(agents_here, suite)
        if left:
            outcome.faults.append(f"machines were left: {left}")


async def promotions(suite: Suite, operator: Operator, outcome: Outcome, dice: random.Random, folder: Path) -> None:
    """Promoted and taken back, with what it needs killed or stopped under it."""
    versions = []
    for seed in (1, 2):
        manifest = read_model(make_model(folder / str(seed), seed=seed), MODEL, licence="mit").manifest
        await operator.ask("POST", "/admin/model-versions", {"manifest": manifest.to_json().decode()})
        versions.append(manifest.revision)
    old, new = versions
    for environment, version in (("production", old), ("staging", new)):
        body = {"model": MODEL, "environment": environment, "version": version, "input_usd_per_million": "1"}
        await operator.ask("POST", "/admin/registered-models", {**body, "output_usd_per_million": "1"})
    start_staged(suite, new)
    promotion = {"model": MODEL, "from_environment": "staging", "to_environment": "production"}
    at = old
    for number in range(12):
        forward = at == old
        path, body = ("promote", promotion) if forward else ("roll-back", {"name": MODEL})
        key = str(uuid4())
        breaking = asyncio.create_task(break_something(suite, dice, number))
        model = await carried_out(operator, path, body, key, outcome)
        await breaking
        at = new if forward else old
        outcome.promotions += 1
        again = await carried_out(operator, path, body, key, outcome)
        listed = [
            each
            for each in (await operator.ask("GET", "/admin/registered-models"))["data"]
            if each["model"] == MODEL and each["environment"] == "production"
        ]
        said = [each["version"] for each in (model, again, *listed)]
        if said != [at] * 3:
            outcome.faults.append(f"{path} {number}: {at} is expected, and was told {said}")


async def carried_out(operator: Operator, path: str, body: object, key: str, outcome: Outcome) -> dict[str, Any]:
    """Asks under one key until it is done. A gate that is not passed, as while no node is heard of, is asked anew."""
    async with asyncio.timeout(END_WITHIN_S):
        for number in range(1_000):
            outcome.repeated += bool(number)
            status, said = await operator.once("POST", f"/admin/registered-models/{path}", body, key=key)
            if status == 200:
                return dict(said["model"]) if path == "promote" else said
            # A gate that is not passed while the registry has heard of no node is an answer, and kept under its key.
            assert status in (0, 409) or status >= 500, (status, said)
            if status == 409:
                key = str(uuid4())
            await asyncio.sleep(0.3)
    raise AssertionError


async def break_something(suite: Suite, dice: random.Random, number: int) -> None:
    """At a moment of the request."""
    await asyncio.sleep(dice.uniform(0.0, 0.12))
    name = ("registry", "postgres", "registry", "postgres")[number % 4]
    if number % 4 < 2:
        await asyncio.to_thread(suite.restart, name)
        return
    suite.kill(name, signal.SIGSTOP)
    await asyncio.sleep(dice.uniform(3.0, 12.0))
    suite.kill(name, signal.SIGCONT)


def start_staged(suite: Suite, version: str) -> None:
    """A node that serves the model of staging, as if it had loaded its version."""
    name, engine = f"{MODEL}@staging", free_port()
    own = f"127.0.0.1:{free_port()}"
    state = suite.run_dir.path / "staged"
    state.mkdir()
    with suite.operator() as client:
        token = client.join_token(suite.target("registry"))
    (state / "token").write_text(token)
    command = [sys.executable, "-m", "crosslogic_sim_engine", "--port", str(engine), "--model", name]
    suite.start_beside(
        "node_agent-1",
        "staged",
        CROSSLOGIC_LISTEN=own,
        CROSSLOGIC_ADVERTISE=own,
        CROSSLOGIC_METRICS_LISTEN=f"127.0.0.1:{free_port()}",
        CROSSLOGIC_JOIN_TOKEN_FILE=str(state / "token"),
        CROSSLOGIC_STATE_DIR=str(state / "state"),
        CROSSLOGIC_MODEL=name,
        CROSSLOGIC_MODEL_VERSION=version,
        CROSSLOGIC_ENGINE_URL=f"http://127.0.0.1:{engine}",
        CROSSLOGIC_ENGINE_COMMAND=json.dumps(command),
        CROSSLOGIC_ENGINE_PID_FILE=str(state / "engine.pid"),
        CROSSLOGIC_ENGINE_LOG_FILE=str(state / "engine.log"),
    )


async def run_trial(suite: Suite, *, parts: str, seed: int) -> Outcome:
    """Runs it on a suite of its own."""
    outcome, began = Outcome(), time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as client:
        operator = Operator(suite, client, outcome)
        if "promotions" in parts:
            await promotions(suite, operator, outcome, random.Random(seed), suite.run_dir.path / "models")
        for stopped_s in STOPPED_S if "launches" in parts else ():
            await launches(suite, operator, outcome, stopped_s)
    if outcome.longest_answer_s > ANSWER_WITHIN_S and "launches" in parts and "promotions" not in parts:
        outcome.faults.append(f"an answer took {outcome.longest_answer_s} s")
    if outcome.errors:
        outcome.faults.append("launches failed")
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def main() -> int:
    """Exit status 1 when there was a fault."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    parser = argparse.ArgumentParser(prog="make trial-stops", description=__doc__)
    parser.add_argument("--parts", default="launches,promotions")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = {"CROSSLOGIC_SWEEP_S": "1"}
    # What PostgreSQL has acknowledged is asked for again after it was killed: commits go to the disk.
    with Suite(engine="sim", nodes=1, root=ROOT, durable=True, settings={"orchestrator": settings}) as suite:
        outcome = asyncio.run(run_trial(suite, parts=options.parts, seed=options.seed))
        if outcome.faults:
            for name in ("orchestrator", "registry", "gateway"):
                print(f"--- {name}\n{suite.log(name)[-4000:]}", file=sys.stderr)
    print(json.dumps(asdict(outcome), indent=2))
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())

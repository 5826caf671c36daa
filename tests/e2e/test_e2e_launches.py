"""Machines launched through the whole suite: steps seen live, and nothing lost or left when processes are killed.

`CROSSLOGIC_TEST_LAUNCHES=100` makes the trial under kills as large as the issue asks for.
"""

import asyncio
import json
import os
import random
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crosslogic_dev.ports import free_port
from crosslogic_dev.suite import Suite
from crosslogic_orchestrator.providers.local import LocalProvider, LocalSettings
from tests.e2e.conftest import simulated
from tests.fakes.local_machines import agents_here

LAUNCHES = int(os.environ.get("CROSSLOGIC_TEST_LAUNCHES", "6"))
ROOM = max(4, LAUNCHES - 2)
"""Fewer than are asked for: the rest must fail, and say why."""
SECOND = "orchestrator-2"
KILLED = ["registry", SECOND, "postgres", "orchestrator"]
"""One after the other; what answers for jobs comes last, and is waited for.

The provider `local` is a part of each orchestrator and dies with it.
"""
STEPS = [
    "validated",
    "task_written",
    "requested",
    "provisioning",
    "agent_registered",
    "weights_loading",
    "warm_up",
    "benchmark",
    "active",
]


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    settings = {
        "orchestrator": {"CROSSLOGIC_SWEEP_S": "1", "CROSSLOGIC_LOCAL_MAX_MACHINES": str(ROOM)},
    }
    with simulated(settings=settings) as started:
        yield started


def asked(suite: Suite) -> dict[str, Any]:
    return {"model_name": suite.model_name, "provider": "local", "region": "local"}


def launch(suite: Suite) -> dict[str, Any]:
    return dict(suite.admin.must("POST", "/admin/instances/launch", asked(suite)))


def job_of(suite: Suite, job_id: str) -> dict[str, Any]:
    return dict(suite.admin.must("GET", f"/admin/instances/{job_id}"))


def terminate(suite: Suite, instance_id: str) -> dict[str, Any]:
    path = f"/admin/instances/{instance_id}/terminate"
    return dict(suite.admin.must("POST", path, {"drain_timeout_s": 1}))


def ended(suite: Suite, job_id: str) -> bool:
    return bool(job_of(suite, job_id)["status"] != "running")


async def wait_for(check: Callable[[], bool], *, timeout_s: float) -> None:
    """Waits until it is true. Each look asks the suite or reads all of /proc: not too often."""
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.2)


async def test_steps_of_a_launch_are_seen_as_they_happen_and_the_machine_serves(suite: Suite) -> None:
    job = launch(suite)
    headers = {"X-Admin-Token": suite.admin.token}
    async with (
        aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(90)) as client,
        client.get(f"{suite.base_url}/admin/instances/{job['id']}/events") as answer,
    ):
        assert answer.content_type == "text/event-stream"
        seen = [json.loads(line[6:]) async for line in answer.content if line.startswith(b"data: ")]

    assert seen[-1]["status"] == "succeeded", seen[-1]
    assert [step["step"] for step in seen[-1]["steps"]] == STEPS
    assert all(step["end_time"] for step in seen[-1]["steps"])
    assert len({event["steps"][-1]["step"] for event in seen}) >= 4, "the steps came all at once"
    (node,) = [each for each in suite.admin.all_of("/admin/nodes") if each["id"] == job["instance_id"]]
    assert node["status"] == "active"

    end = terminate(suite, job["instance_id"])
    await wait_for(lambda: ended(suite, end["id"]), timeout_s=60)
    assert [step["step"] for step in job_of(suite, end["id"])["steps"]] == ["draining", "deleting", "terminated"]
    assert job["instance_id"] not in agents_here(suite)


async def test_machine_that_nobody_knows_of_is_deleted_and_one_that_vanishes_is_lost(suite: Suite) -> None:
    kept = launch(suite)
    await wait_for(lambda: ended(suite, kept["id"]), timeout_s=60)
    environ = json.loads(_environ_of(suite, "orchestrator")["CROSSLOGIC_LOCAL_AGENT_ENV"])
    stray = str(uuid.uuid4())
    provider = LocalProvider(LocalSettings(folder=suite.run_dir.machines, agent_environ=environ), free_port=free_port)
    await provider.launch(name=stray, task=json.dumps({"model": "m", "region": "local"}), join_token="cljt_none")
    await wait_for(lambda: not agents_here(suite).get(stray), timeout_s=30)
    assert kept["instance_id"] in agents_here(suite), "it deleted a machine that it knows of"

    for pid in agents_here(suite)[kept["instance_id"]]:
        os.kill(pid, signal.SIGKILL)

    def state() -> str:
        found = suite.admin.must("GET", "/admin/instances?include_ended=true")["data"]
        return next(str(each["state"]) for each in found if each["id"] == kept["instance_id"])

    await wait_for(lambda: state() == "lost", timeout_s=30)


async def test_jobs_end_in_a_true_state_whoever_is_killed_and_no_machine_is_left_or_made_twice(suite: Suite) -> None:
    dice = random.Random(7)
    own = {name: f"127.0.0.1:{free_port()}" for name in ("CROSSLOGIC_LISTEN", "CROSSLOGIC_METRICS_LISTEN")}
    suite.start_beside("orchestrator", SECOND, **own)
    called_off = launch(suite)
    terminate(suite, called_off["instance_id"])
    jobs = [called_off, *(launch(suite) for _ in range(LAUNCHES - 1))]
    for number in range(4 + LAUNCHES // 10):
        await asyncio.sleep(dice.uniform(0.05, 0.6))
        most = max((len(pids) for pids in agents_here(suite).values()), default=0)
        assert most <= 1, "a machine was launched twice"
        await asyncio.to_thread(suite.restart, KILLED[number % len(KILLED)])
    for job in jobs:
        await wait_for(lambda job=job: ended(suite, job["id"]), timeout_s=60 + 3 * LAUNCHES)  # type: ignore[misc]

    outcomes = {job["instance_id"]: job_of(suite, job["id"]) for job in jobs}
    active = {name for name, job in outcomes.items() if job["status"] == "succeeded"}
    assert "terminated before it served" in outcomes.pop(called_off["instance_id"])["error"]
    errors = [job["error"] for name, job in outcomes.items() if name not in active]
    assert all("allows no more" in error for error in errors), errors
    # The one that was called off may have held its place while the last of the others asked for theirs.
    assert len(active) in (ROOM - 1, ROOM)
    await wait_for(lambda: agents_here(suite).keys() == active, timeout_s=60)
    assert {len(pids) for pids in agents_here(suite).values()} == {1}
    listed = {each["id"]: each["state"] for each in suite.admin.must("GET", "/admin/instances")["data"]}
    assert listed == dict.fromkeys(active, "active")

    ends = [terminate(suite, name)["id"] for name in active]
    suite.restart("orchestrator")
    for end in ends:
        await wait_for(lambda end=end: ended(suite, end), timeout_s=60 + 3 * LAUNCHES)  # type: ignore[misc]
    assert agents_here(suite) == {}


def _environ_of(suite: Suite, name: str) -> dict[str, str]:
    pid = suite.pid(name)
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.partition("=")[::2] for pair in pairs if pair)

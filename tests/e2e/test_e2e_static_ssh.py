"""A machine in a rack: launched over SSH, made a node by the agent's installer, serving, and given back."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from crosslogic_dev.ports import free_port
from crosslogic_dev.suite import Suite
from tests.e2e.conftest import ROOT
from tests.fakes.e2e_clients import client
from tests.fakes.ssh_server import SshMachines
from tests.fakes.systemd_machine import agent_pid, make_machine

WAIT_S = 120.0


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with Suite(engine="sim", nodes=1, tunnel=True, root=ROOT, durable=False) as running:
        yield running


@pytest.fixture(scope="module")
def rack(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The only machine of the pool, which the suite's orchestrator reaches over SSH."""
    with SshMachines(tmp_path_factory.mktemp("rack"), ["gpu0"]) as machines:
        folder = machines.root("gpu0")
        make_machine(folder, ca_file=suite.run_dir.tls / "ca.pem")
        pool = machines.folder / "pool.toml"
        pool.write_text('[[machine]]\nname = "rack-0"\nssh = "gpu0@127.0.0.1"\nregion = "local"\n')
        port = free_port()
        engine = [sys.executable, "-m", "crosslogic_sim_engine", "--port", str(port), "--model", suite.model_name]
        agent = {
            "CROSSLOGIC_REGISTRY_TARGET": suite.target("registry"),
            "CROSSLOGIC_REGISTRY_JOIN_TARGET": suite.target("registry_join"),
            "CROSSLOGIC_ENGINE_URL": f"http://127.0.0.1:{port}",
            "CROSSLOGIC_ENGINE_COMMAND": json.dumps(engine),
        }
        suite.retune(
            "orchestrator",
            CROSSLOGIC_STATIC_MACHINES_FILE=str(pool),
            CROSSLOGIC_STATIC_SSH=json.dumps(machines.ssh()),
            CROSSLOGIC_STATIC_AGENT_ENV=json.dumps(agent),
        )
        suite.restart("orchestrator")
        # Whatever is answered from now on, the machine in the rack has answered.
        suite.kill("node_agent-1", signal.SIGTERM)
        yield folder
        if (pid := agent_pid(folder)) is not None:
            os.killpg(pid, signal.SIGKILL)


async def ended(suite: Suite, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The job that came of asking, when it is over."""
    job = dict(suite.admin.must("POST", path, asked))
    async with asyncio.timeout(WAIT_S):
        while job["status"] == "running":
            await asyncio.sleep(0.1)
            job = dict(suite.admin.must("GET", f"/admin/instances/{job['id']}"))
    return job


async def test_machine_in_a_rack_is_launched_over_ssh_serves_and_is_given_back(suite: Suite, rack: Path) -> None:
    asked = {"model_name": suite.model_name, "provider": "static", "region": "local"}
    job = await ended(suite, "/admin/instances/launch", asked)
    assert job["status"] == "succeeded", (job, (rack / "static/start.log").read_text())
    with client(suite) as caller:
        answer = caller.chat.completions.create(
            model=suite.model_name, messages=[{"role": "user", "content": "Hello"}], max_tokens=4
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert agent_pid(rack) is not None

    second = await ended(suite, "/admin/instances/launch", asked)
    assert second["status"] == "failed"
    assert "Every machine of the pool in local that fits is taken" in second["error"]

    path = f"/admin/instances/{job['instance_id']}/terminate"
    end = await ended(suite, path, {"drain_timeout_s": 1})
    assert end["status"] == "succeeded", end
    assert agent_pid(rack) is None
    assert not (rack / "static/machine").exists()

"""Providers of machines that need nothing but this one: processes, and a fake behind SkyPilot's worker protocol."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import crosslogic_orchestrator.providers
from crosslogic_common.regions import default_regions
from crosslogic_orchestrator.domain import Spec
from crosslogic_orchestrator.ports import ProviderError
from crosslogic_orchestrator.providers.local import LocalProvider, LocalSettings
from crosslogic_orchestrator.providers.skypilot import SkyPilotProvider, SkyPilotSettings
from crosslogic_orchestrator.providers.skypilot_link import WorkerLink
from tests.contract.orchestrator_provider_suite import TOKEN, ProviderSuite, end, launched, names, state
from tests.fakes.test_ca import CertificateMaker

SETUP = Path(crosslogic_orchestrator.providers.__file__).with_name("skypilot_setup.sh")
FAKE = Path(__file__).parents[1] / "fakes/skypilot_worker.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalPool:
    """Agents as processes; their registry is away, so that they go on trying."""

    spec = Spec(model="llama", provider="local", region="us-virginia")
    impossible = Spec(model="llama", provider="local", region="us-virginia", use_spot=True)

    def __init__(self, folder: Path) -> None:
        nobody = f"127.0.0.1:{free_port()}"
        environ = {
            "PATH": os.environ["PATH"],
            "CROSSLOGIC_TLS_CA_FILE": str(CertificateMaker(folder / "ca").ca_file),
            "CROSSLOGIC_REGISTRY_TARGET": nobody,
            "CROSSLOGIC_REGISTRY_JOIN_TARGET": nobody,
            "CROSSLOGIC_ENGINE_URL": "http://127.0.0.1:{port}",
        }
        self._folder = folder / "machines"
        self.provider = LocalProvider(LocalSettings(folder=self._folder, agent_environ=environ), free_port=free_port)

    def begun(self, name: str) -> int:
        return len(self._pids(name))

    def take_away(self, name: str) -> None:
        for pid in self._pids(name):
            os.kill(pid, signal.SIGKILL)

    def _pids(self, name: str) -> list[int]:
        mark = f"CROSSLOGIC_STATE_DIR={self._folder / name / 'state'}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


class TestLocal(ProviderSuite):
    @pytest.fixture
    def pool(self, tmp_path: Path) -> LocalPool:
        return LocalPool(tmp_path)


class SkyPilotPool:
    """A folder for a cloud, behind the protocol that the real worker speaks."""

    spec = Spec(model="llama", provider="aws", region="us-virginia", instance_type="A10G:1", use_spot=True)
    impossible = Spec(model="llama", provider="aws", region="us-virginia", instance_type="Abacus:9")

    def __init__(self, folder: Path, *, name: str = "aws") -> None:
        self.folder = folder / "cloud"
        self.link = WorkerLink([sys.executable, str(FAKE), str(self.folder)], dict(os.environ), answer_s=20)
        secret = folder / "hub-token"
        secret.write_text("s3cr3t-of-the-hub\n")
        settings = SkyPilotSettings(
            installation="test",
            clouds=("aws", "gcp"),
            regions=default_regions(),
            accelerators="",
            setup="install",
            secret_files={"HF_TOKEN": str(secret)},
        )
        self.provider = SkyPilotProvider(name, settings, ask=self.link.ask)

    def begun(self, name: str) -> int:
        return sum(line.startswith("launched") for line in self._file(name).read_text().splitlines())

    def take_away(self, name: str) -> None:
        with self._file(name).open("a") as file:
            file.write("taken away\n")

    def leave(self, name: str) -> None:
        with self._file(name).open("a") as file:
            file.write("left off\n")

    def _file(self, name: str) -> Path:
        return self.folder / f"cl-test-aws-{name}"


class TestSkyPilot(ProviderSuite):
    @pytest.fixture
    async def pool(self, tmp_path: Path) -> AsyncIterator[SkyPilotPool]:
        pool = SkyPilotPool(tmp_path)
        async with pool.link.running():
            yield pool

    async def test_secrets_travel_beside_the_task_and_never_in_it(self, pool: SkyPilotPool) -> None:
        name = await launched(pool)
        task = await pool.provider.task_for(pool.spec, name)
        assert "s3cr3t" not in task
        (said,) = pool._file(name).read_text().splitlines()
        assert said == "launched with CROSSLOGIC_JOIN_TOKEN HF_TOKEN"

    async def test_spot_is_asked_for_where_the_region_is_at_that_cloud(self, pool: SkyPilotPool) -> None:
        task = await pool.provider.task_for(pool.spec, "m")
        assert task.startswith("# Expected: aws/us-east-1 spot, $0.4000 an hour\n")
        anywhere = SkyPilotProvider("sky", pool.provider._settings, ask=pool.link.ask)
        assert '"places": ["aws/us-east-1", "gcp/us-east4"]' in await anywhere.task_for(pool.spec, "m")

    async def test_the_price_that_is_paid_is_known(self, pool: SkyPilotPool) -> None:
        name = await launched(pool)
        assert (await pool.provider.find(name)).hourly_price_picodollars == 400_000_000_000

    async def test_what_was_left_half_made_is_gone_on_with_listed_and_ended(self, pool: SkyPilotPool) -> None:
        name = await launched(pool)
        task = await pool.provider.task_for(pool.spec, name)
        pool.leave(name)
        assert await state(pool, name) == "stalled"
        assert await names(pool) == {name}, "the sweep must find it"
        await pool.provider.launch(name=name, task=task, join_token=TOKEN)
        assert await state(pool, name) == "running"
        pool.leave(name)
        await end(pool, name)
        await pool.provider.launch(name=name, task=task, join_token=TOKEN)
        assert await state(pool, name) == "gone"

    async def test_one_clouds_sweep_leaves_anothers_machines_alone(self, pool: SkyPilotPool) -> None:
        name = await launched(pool)
        other = SkyPilotProvider("gcp", pool.provider._settings, ask=pool.link.ask)
        assert await other.machines() == []
        assert await names(pool) == {name}

    async def test_a_worker_that_died_is_started_again_and_its_machines_are_still_known(
        self, pool: SkyPilotPool
    ) -> None:
        name = await launched(pool)
        mark = pool.folder / ".die"
        mark.touch()
        with pytest.raises(ProviderError) as died:
            await pool.provider.find(name)
        assert died.value.temporary
        mark.unlink()
        assert await state(pool, name) == "running"
        await end(pool, name)

    async def test_a_worker_that_hangs_holds_nobody_for_ever(self, pool: SkyPilotPool) -> None:
        await pool.provider.machines()
        pool.link._answer_s = 0.2
        mark = pool.folder / ".hang"
        mark.touch()
        with pytest.raises(ProviderError, match="did not answer within") as hung:
            await pool.provider.machines()
        assert hung.value.temporary
        mark.unlink()
        pool.link._answer_s = 20
        assert await pool.provider.machines() == []

    async def test_a_machine_type_must_be_named_where_none_is_set(self, pool: SkyPilotPool) -> None:
        with pytest.raises(ProviderError, match="instance_type") as refused:
            await pool.provider.task_for(Spec(model="llama", provider="aws", region="us-virginia"), "m")
        assert not refused.value.temporary


@pytest.mark.parametrize("said", ["nonsense", '{"protocol": 2}', '{"protocol": null}', "[]", ""])
async def test_a_worker_of_another_release_is_told_from_one_that_answers(said: str) -> None:
    link = WorkerLink([sys.executable, "-c", f"print({said!r})"], {})
    async with link.running():
        with pytest.raises(ProviderError, match="protocol 1") as refused:
            await link.ask("list", {"prefix": TOKEN})
    assert refused.value.temporary


async def test_a_worker_that_is_not_installed_is_said_to_be_so() -> None:
    link = WorkerLink(["/nowhere/python"], {})
    async with link.running():
        with pytest.raises(ProviderError, match="cannot be started") as refused:
            await link.ask("list", {})
    assert refused.value.temporary


SUDO = """#!/bin/sh
echo "$@" >> "$HOME/arguments"
token=$(echo "$@" | sed 's/.*--token-file \\([^ ]*\\).*/\\1/')
cp "$token" "$HOME/installed-with"
env > "$HOME/environment"
"""


def test_a_clouds_machine_joins_with_its_token_which_is_in_no_argument_and_gone_afterwards(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sudo").write_text(SUDO)
    (programs / "sudo").chmod(0o700)
    variables = ("REGISTRY_TARGET", "REGISTRY_JOIN_TARGET", "MODEL", "REGION", "ENGINE_URL", "ENGINE_COMMAND")
    environ = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "CROSSLOGIC_JOIN_TOKEN": TOKEN,
        "SKYPILOT_CLUSTER_INFO": '{"cluster_name": "c", "cloud": "AWS", "region": "eu-central-1", "zone": null}',
        **{f"CROSSLOGIC_{name}": f"the-{name}" for name in variables},
    }
    script = SETUP.read_text()
    subprocess.run(["bash", "-c", script], env=environ, check=True, timeout=30)

    said = (tmp_path / "arguments").read_text()
    assert "--region eu-central-1" in said, "a node must say where it is, not what was asked for"
    assert TOKEN not in said + (tmp_path / "environment").read_text()
    assert (tmp_path / "installed-with").read_text() == TOKEN
    assert list((tmp_path / "crosslogic").iterdir()) == []

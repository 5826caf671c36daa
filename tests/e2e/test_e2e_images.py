"""Each service installed alone, as in its image, and started: a dependency that its pyproject does not name shows."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crosslogic_dev.suite import Suite
from crosslogic_dev.topology import GATEWAY, SERVICES
from tests.fakes.e2e_load import Load, Seen
from tests.fakes.service_venvs import ROOT, build_wheels, make_environment, own_needed

ALONE = (*SERVICES, GATEWAY, "node_agent")


def package(service: str) -> str:
    return f"crosslogic-{service.replace('_', '-')}"


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("alone")
    packages = [*map(package, ALONE), "crosslogic-backup"]
    wheels = build_wheels(set().union(*map(own_needed, packages)), folder / "wheels")
    with ThreadPoolExecutor(4) as pool:
        made = {name: pool.submit(make_environment, folder / name, name=name, wheels=wheels) for name in packages}
        return {name: each.result() for name, each in made.items()}


@pytest.fixture(scope="module")
def alone(environments: dict[str, Path]) -> Iterator[Suite]:
    interpreters = {service: str(environments[package(service)]) for service in ALONE}
    with Suite(engine="sim", root=ROOT, durable=False, interpreters=interpreters) as running:
        yield running


async def test_services_that_are_installed_alone_serve_a_request_together(alone: Suite) -> None:
    async with Load(alone, max_tokens=4) as load:
        streamed, whole = await load.one(1, Seen(stream=True)), await load.one(2, Seen(stream=False))
    assert (streamed.complete, whole.complete) == (True, True), (streamed.error, whole.error)
    for service in (*SERVICES, GATEWAY, "node_agent-1"):
        pid = alone.pid(service)
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert b"/alone" in command[0], f"{service} runs in another environment"


def test_nothing_of_the_workshop_is_in_an_image(environments: dict[str, Path]) -> None:
    for name, python in environments.items():
        installed = {each.name for each in python.parents[1].glob("lib/*/site-packages/*")}
        assert {"crosslogic_common", "grpc"} <= installed, name
        assert installed & {"crosslogic_dev", "crosslogic_sim_engine", "pytest", "hatchling", "pip"} == set(), name


def test_backups_start_alone_and_say_what_they_miss(environments: dict[str, Path]) -> None:
    command = [str(environments["crosslogic-backup"]), "-I", "-m", "crosslogic_backup", "list"]
    started = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert (started.returncode, "DATABASE_URL is not set" in started.stderr) == (1, True), started.stderr

"""compose.yaml: every process of the control plane, with settings that its code reads and files that are there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from crosslogic_dev.engine.install import VLLM_VERSION
from crosslogic_dev.topology import GATEWAY, SERVICES
from scripts import compose_secrets
from tests.fakes.service_settings import settings_of, variables_of
from tests.fakes.service_venvs import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = (*SERVICES, GATEWAY, "node_agent")
# The words of the Compose specification that are used here.
KEYS = {"image", "build", "environment", "secrets", "ports", "depends_on", "restart", "user", "read_only", "tmpfs"} | {
    "cap_drop", "security_opt", "volumes", "healthcheck", "command", "profiles", "ipc", "deploy",
}  # fmt: skip
PLACE = re.compile(r"\$\{CROSSLOGIC_COMPOSE:-[^}]+\}")
PORTS = {"CROSSLOGIC_LISTEN", "CROSSLOGIC_JOIN_LISTEN"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose")
    compose_secrets.make(folder)
    return folder


def environment(service: str) -> dict[str, str]:
    return {key: str(value) for key, value in COMPOSE["services"][service]["environment"].items()}


def test_every_process_of_the_control_plane_is_there_and_every_word_is_one_of_composes() -> None:
    assert set(COMPOSE["services"]) == {*OURS, "postgres", "redis", "engine"}
    assert set(COMPOSE) == {"name", "x-process", "services", "volumes", "secrets"}
    assert {key for each in COMPOSE["services"].values() for key in each} <= KEYS
    for each in COMPOSE["services"].values():
        assert ":" in each["image"]
        assert not each["image"].endswith(":latest")


@pytest.mark.parametrize("service", OURS)
def test_process_starts_with_its_settings(service: str, made: Path) -> None:
    environ = environment(service)
    assert environ.keys() <= variables_of(service), "a setting that nobody reads"
    mounted = COMPOSE["services"][service]["secrets"]
    for key, value in environ.items():
        if value.startswith("/run/secrets/"):
            name = value.removeprefix("/run/secrets/")
            assert name in mounted, f"{service}: {key} is not mounted"
            file = Path(PLACE.sub(str(made), COMPOSE["secrets"][name]["file"]))
            assert file.is_file(), f"{file} is not made by scripts/compose_secrets.py"
            environ[key] = str(file)
        environ[key] = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", environ[key])
    settings_of(service).from_env(environ)


@pytest.mark.parametrize("service", OURS)
def test_process_is_shut_in_and_finds_its_neighbours(service: str) -> None:
    own = COMPOSE["services"][service]
    assert own["read_only"] is True
    assert (own["cap_drop"], own["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert own["build"]["dockerfile"] == f"services/{service}/Dockerfile"
    assert (ROOT / own["build"]["dockerfile"]).is_file()
    for key, value in environment(service).items():
        if key.endswith("_TARGET"):
            host, _, port = value.rpartition(":")
            listening = {environment(host)[name].rpartition(":")[2] for name in PORTS & environment(host).keys()}
            assert port in listening, f"{service}: nobody listens at {value}"
    for neighbour, condition in _conditions(own.get("depends_on", {})):
        assert condition != "service_healthy" or "healthcheck" in COMPOSE["services"][neighbour]


def _conditions(given: Any) -> list[tuple[str, str]]:
    if isinstance(given, list):
        return [(name, "") for name in given]
    return [(name, each["condition"]) for name, each in given.items()]


def test_only_the_gateway_listens_outside_and_only_on_this_machine() -> None:
    ports = {name: each["ports"] for name, each in COMPOSE["services"].items() if "ports" in each}
    assert ports == {"gateway": ["127.0.0.1:8080:8080"]}


def test_secrets_are_made_once_and_for_nobody_else(made: Path) -> None:
    before = {file: file.read_bytes() for file in made.rglob("*") if file.is_file()}
    compose_secrets.make(made)
    assert {file: file.read_bytes() for file in made.rglob("*") if file.is_file()} == before
    for file in before:
        if file.name != "env":
            assert file.stat().st_mode & 0o077 == 0, f"{file} can be read by others"


def test_node_of_compose_and_of_kubernetes_has_the_engine_that_the_tests_have() -> None:
    chart = yaml.safe_load((ROOT / "k8s/charts/vllm-deployment/values.yaml").read_text())
    image = f"vllm/vllm-openai:v{VLLM_VERSION}"
    assert (COMPOSE["services"]["engine"]["image"], chart["engine"]["image"]) == (image, image)


def test_node_that_is_started_again_is_still_who_it_was() -> None:
    state = environment("node_agent")["CROSSLOGIC_STATE_DIR"]
    (mounted,) = COMPOSE["services"]["node_agent"]["volumes"]
    volume, _, place = mounted.partition(":")
    assert place == state
    assert volume in COMPOSE["volumes"]
    # An empty volume gets the mode of the image's folder, which is somebody else's than the agent's there.
    assert f"mkdir --mode=1777 {state}" in (ROOT / "services/node_agent/Dockerfile").read_text()

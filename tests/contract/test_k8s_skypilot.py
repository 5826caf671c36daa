"""The component of clouds, taken into an overlay: SkyPilot's API server beside the orchestrator."""

from pathlib import Path

import pytest
import yaml

from crosslogic_orchestrator.cloud_settings import CloudSettings
from tests.fakes import k8s_rules
from tests.fakes.debian import debian_folder
from tests.fakes.k8s_render import ROOT, Json, named, with_component

TMP = str(Path("/", "tmp"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    folder = tmp_path_factory.mktemp("clouds")
    return with_component("production", "skypilot", folder=folder, cache=debian_folder(tmp_path_factory))


def container(rendered: list[Json], name: str) -> Json:
    (found,) = k8s_rules.pod_spec(named(rendered, "Deployment", name))["containers"]
    return dict(found)


def test_there_is_one_server_at_a_time(rendered: list[Json]) -> None:
    server = named(rendered, "Deployment", "skypilot")["spec"]
    assert (server["replicas"], server["strategy"]["type"]) == (1, "Recreate"), "two would know half each"


def test_orchestrator_asks_the_server_that_is_there_with_what_its_image_has(rendered: list[Json]) -> None:
    orchestrator, server = container(rendered, "orchestrator"), container(rendered, "skypilot")
    environ = {each["name"]: str(each["value"]) for each in orchestrator["env"]}
    # Files are secrets' and not what this is about: any file does.
    environ |= {name: __file__ for name in environ if name.endswith("_FILE")}
    settings = CloudSettings.from_env(environ)
    (port,) = named(rendered, "Service", "skypilot")["spec"]["ports"]
    assert settings.skypilot_api == f"http://skypilot:{port['port']}"
    assert server["image"] == orchestrator["image"]
    image = (ROOT / "services/orchestrator/Dockerfile").read_text()
    assert settings.skypilot_worker[0] == server["command"][0] == "/opt/skypilot/bin/python"
    assert "COPY --from=skypilot /opt/skypilot /opt/skypilot" in image
    assert server["command"][1:3] == ["-m", "sky.server.server"]
    mounted = [mount["mountPath"] for mount in orchestrator["volumeMounts"]]
    for file in settings.skypilot_files.values():
        assert file in image or str(Path(file).parent) in mounted, f"{file} is not there to be copied"
    assert settings.skypilot_environ["HOME"].startswith(f"{TMP}/"), "elsewhere nothing can be written"
    wanted = {"CROSSLOGIC_REGISTRY_TARGET", "CROSSLOGIC_REGISTRY_JOIN_TARGET", "CROSSLOGIC_ENGINE_URL"}
    assert wanted <= settings.skypilot_agent_environ.keys()


def test_only_the_orchestrator_reaches_the_server_and_only_the_server_has_the_account(rendered: list[Json]) -> None:
    policies = [each["spec"] for each in rendered if each["kind"] == "NetworkPolicy"]
    mine = {"matchLabels": {"app.kubernetes.io/name": "skypilot"}}
    into = [rule for each in policies if each["podSelector"] == mine for rule in each.get("ingress", [])]
    assert [peer for rule in into for peer in rule["from"]] == [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "orchestrator"}}}
    ]
    made = {each["spec"]["target"]["name"] for each in rendered if each["kind"] == "ExternalSecret"}
    assert {"skypilot-database", "skypilot-clouds"} <= made
    others = [
        each for each in rendered if each["kind"] in k8s_rules.WORKLOADS and each["metadata"]["name"] != "skypilot"
    ]
    assert not any(name in str(others) for name in ("skypilot-database", "skypilot-clouds"))


def test_no_machine_gets_the_account(rendered: list[Json]) -> None:
    config = yaml.safe_load(named(rendered, "ConfigMap", "skypilot")["data"]["config.yaml"])
    settings = container(rendered, "orchestrator")["env"]
    (clouds,) = [each["value"] for each in settings if each["name"] == "CROSSLOGIC_SKYPILOT_CLOUDS"]
    assert {config[cloud]["remote_identity"] for cloud in clouds.split(",")} == {"NO_UPLOAD"}

"""Every manifest of every overlay, and the chart: rendered, of the right form, and within the rules for workloads."""

import base64
import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from crosslogic_backup.cli import parse_arguments
from crosslogic_backup.settings import BackupSettings
from crosslogic_common.tls import service_dns_name, service_spiffe_id
from crosslogic_node_agent.settings import NodeAgentSettings
from crosslogic_node_agent.settings_check import check_together
from crosslogic_registry.settings import RegistrySettings
from tests.fakes import k8s_rules
from tests.fakes.k8s_render import K8S, OVERLAYS, ROOT, Json, helmed, kustomized, named, schema_problems, with_component
from tests.fakes.service_settings import settings_of, variables_of

CHART = K8S / "charts/vllm-deployment"
EXTERNAL_CHART = K8S / "charts/external-endpoint"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kubectl")


@pytest.fixture(scope="module")
def rendered(cache: Path) -> dict[str, list[Json]]:
    overlays = {name: kustomized(K8S / "overlays" / name, cache=cache) for name in OVERLAYS}
    charts = {f"chart {name}": helmed(CHART, "-f", str(CHART / f"values-{name}.yaml")) for name in OVERLAYS}
    external = helmed(EXTERNAL_CHART, "-f", str(EXTERNAL_CHART / "values-example.yaml"))
    clouds = with_component("production", "skypilot", folder=cache / "clouds", cache=cache)
    return {**overlays, **charts, "chart external": external, "with clouds": clouds}


@pytest.fixture(scope="module")
def applications() -> list[Json]:
    return [yaml.safe_load((K8S / "argocd" / f"{name}.yaml").read_text()) for name in OVERLAYS]


def test_every_object_has_the_form_that_its_kind_wants(
    rendered: dict[str, list[Json]], applications: list[Json]
) -> None:
    everything = [each for made in rendered.values() for each in made] + applications
    # Most are the same in several places, and each takes a while.
    objects = list({json.dumps(each, sort_keys=True): each for each in everything}.values())
    wrong = [
        f"{each['kind']}/{each['metadata']['name']}: {problem}"
        for each, problem in zip(objects, schema_problems(objects), strict=True)
        if problem
    ]
    assert wrong == []


def test_a_wrong_object_of_each_kind_is_found(rendered: dict[str, list[Json]], applications: list[Json]) -> None:
    one_of_each = {each["kind"]: each for made in rendered.values() for each in made}
    one_of_each["Application"] = applications[0]
    spoilt = []
    for each in one_of_each.values():
        broken = copy.deepcopy(each)
        broken.get("spec", broken)["replicaas"] = 3
        spoilt.append(broken)
    assert [each["kind"] for each, problem in zip(spoilt, schema_problems(spoilt), strict=True) if not problem] == []


@pytest.mark.parametrize("name", [*OVERLAYS, *(f"chart {each}" for each in OVERLAYS), "chart external", "with clouds"])
def test_workloads_keep_to_the_rules(rendered: dict[str, list[Json]], name: str) -> None:
    assert k8s_rules.problems(rendered[name]) == []


def _pod(path: str, value: object) -> Callable[[list[Json]], None]:
    def spoil(objects: list[Json]) -> None:
        at: Any = named(objects, "Deployment", "gateway")["spec"]["template"]["spec"]
        *parents, last = path.split(".")
        for part in parents:
            at = at[int(part)] if part.isdigit() else at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value

    return spoil


def _without(kind: str) -> Callable[[list[Json]], None]:
    def spoil(objects: list[Json]) -> None:
        objects[:] = [each for each in objects if each["kind"] != kind]

    return spoil


def _secret(objects: list[Json]) -> None:
    objects.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "leaked"}, "data": {}})


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_pod("securityContext.runAsNonRoot", False), "runs as root"),
        (_pod("securityContext.seccompProfile", None), "no seccomp profile"),
        (_pod("automountServiceAccountToken", True), "gets a token of the cluster's API"),
        (_pod("serviceAccountName", "default"), "runs as the default service account"),
        (_pod("hostNetwork", True), "shares the host's namespaces"),
        (_pod("volumes", [{"name": "x", "hostPath": {"path": "/"}}]), "mounts the host's files"),
        (_pod("topologySpreadConstraints", None), "its pods may all be on one machine"),
        (_pod("containers.0.securityContext.allowPrivilegeEscalation", True), "may gain privileges"),
        (_pod("containers.0.securityContext.readOnlyRootFilesystem", False), "may write to its root file system"),
        (_pod("containers.0.securityContext.capabilities", {"drop": ["NET_RAW"]}), "keeps capabilities"),
        (_pod("containers.0.resources.limits", None), "has no limits"),
        (_pod("containers.0.readinessProbe", None), "has no readinessProbe"),
        (_pod("containers.0.image", "crosslogic/gateway:latest"), "takes whatever crosslogic/gateway:latest is"),
        (_pod("containers.0.env", [{"name": "ADMIN_TOKEN", "value": "x"}]), "has ADMIN_TOKEN in its manifest"),
        (_without("NetworkPolicy"), "the network is open where no policy names it"),
        (_without("PodDisruptionBudget"), "no disruption budget"),
        (_without("ServiceAccount"), "its service account gateway is not there"),
        (_secret, "a secret's value is in the manifest"),
    ],
)
def test_breach_of_each_rule_is_found(
    rendered: dict[str, list[Json]], spoil: Callable[[list[Json]], None], problem: str
) -> None:
    objects = copy.deepcopy(rendered["production"])
    spoil(objects)
    assert any(problem in found for found in k8s_rules.problems(objects)), k8s_rules.problems(objects)


@pytest.mark.parametrize("name", OVERLAYS)
def test_services_start_with_the_settings_that_their_pods_have(
    rendered: dict[str, list[Json]], name: str, tmp_path: Path
) -> None:
    for each in rendered[name]:
        service = each["metadata"]["name"]
        if each["kind"] != "Deployment" or service == "redis":
            continue
        settings_of(service).from_env(_environ(each, "containers", 0, tmp_path))


@pytest.mark.parametrize("name", ["staging", "production"])
def test_backups_run_every_six_hours_and_restores_when_somebody_says_so(
    rendered: dict[str, list[Json]], name: str, tmp_path: Path
) -> None:
    backup, restore = (named(rendered[name], "CronJob", each) for each in ("backup", "restore"))
    assert (backup["spec"]["schedule"], backup["spec"].get("suspend", False)) == ("17 */6 * * *", False)
    assert restore["spec"]["suspend"] is True
    for job, database in ((backup, "backup-database"), (restore, "restore-database")):
        environ = _environ(job, "containers", 0, tmp_path)
        assert environ.keys() <= variables_of("backup")
        settings = settings_of("backup").from_env(environ)
        assert isinstance(settings, BackupSettings)
        assert (settings.keep_days, urlsplit(settings.place).scheme) == (30, "s3")
        (container,) = k8s_rules.pod_spec(job)["containers"]
        assert parse_arguments(container["args"]).command == job["metadata"]["name"]
        mounted = {
            each["name"]: each.get("secret", {}).get("secretName") for each in k8s_rules.pod_spec(job)["volumes"]
        }
        assert mounted["database"] == database, "whoever backs up must not be able to write"


@pytest.mark.parametrize("name", ["staging", "production"])
def test_the_registry_signs_for_the_bucket_of_weights_that_the_store_names(
    rendered: dict[str, list[Json]], name: str, tmp_path: Path
) -> None:
    registry = named(rendered[name], "Deployment", "registry")
    stored = named(rendered[name], "ExternalSecret", "weights-bucket")["spec"]
    keys = {each["secretKey"] for each in stored["data"]}
    environ = _environ(registry, "containers", 0, tmp_path)
    for each in k8s_rules.pod_spec(registry)["containers"][0]["env"]:
        if "secretKeyRef" in each.get("valueFrom", {}):
            reference = each["valueFrom"]["secretKeyRef"]
            assert (reference["name"], reference["key"] in keys) == (stored["target"]["name"], True)
            environ[each["name"]] = f"the-{reference['key']}"
    assert {Path(environ[f"{key}_FILE"]).name for key in ("R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY")} <= keys
    assert environ.keys() <= variables_of("registry")
    settings = settings_of("registry").from_env(environ)
    assert isinstance(settings, RegistrySettings)
    place = settings.place()
    assert place is not None
    assert (place.endpoint, place.bucket) == ("https://the-account-id.r2.cloudflarestorage.com", "the-bucket-name")
    others = [each for each in rendered[name] if each["kind"] in k8s_rules.WORKLOADS and each is not registry]
    assert "weights-bucket" not in str(others), "somebody else may read the key"


def test_agent_starts_with_the_settings_that_its_pod_has(rendered: dict[str, list[Json]], tmp_path: Path) -> None:
    (deployment,) = [each for each in rendered["chart production"] if each["kind"] == "Deployment"]
    environ = _environ(deployment, "containers", 1, tmp_path)
    environ["CROSSLOGIC_ADVERTISE"] = environ["CROSSLOGIC_ADVERTISE"].replace("$(POD_IP)", "10.1.2.3")
    settings = NodeAgentSettings.from_env(environ)
    assert settings.advertise == "10.1.2.3:7200"


def test_relay_to_an_endpoint_starts_with_the_settings_that_its_pod_has(
    rendered: dict[str, list[Json]], tmp_path: Path
) -> None:
    (relay,) = [each for each in rendered["chart external"] if each["kind"] == "StatefulSet"]
    environ = _environ(relay, "containers", 0, tmp_path)
    environ["CROSSLOGIC_ADVERTISE"] = environ["CROSSLOGIC_ADVERTISE"].replace("$(POD_IP)", "10.1.2.3")
    environ["CROSSLOGIC_STATE_DIR"] = str(tmp_path / "state")
    assert environ.keys() <= variables_of("node_agent")
    settings = NodeAgentSettings.from_env(environ)
    check_together(settings)
    assert settings.external_url is not None
    assert settings.external_url.authority == "api.example.com"
    assert settings.external_key


def _environ(deployment: Json, kind: str, number: int, folder: Path) -> dict[str, str]:
    """The container's variables; files stand in for its secrets, and only for what it mounts."""
    container = k8s_rules.pod_spec(deployment)[kind][number]
    mounted = tuple(f"{mount['mountPath']}/" for mount in container["volumeMounts"])
    environ = {each["name"]: str(each["value"]) for each in container["env"] if "value" in each}
    for variable, path in environ.items():
        if variable.endswith("_FILE"):
            assert path.startswith(mounted), f"{deployment['metadata']['name']}: {variable} is not mounted"
            file = folder / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(base64.b64encode(bytes(32)).decode() if "SEAL" in variable else "redis://x:1/0")
            environ[variable] = str(file)
    return environ


@pytest.mark.parametrize("name", OVERLAYS)
def test_certificates_name_their_services_as_the_code_checks_them(rendered: dict[str, list[Json]], name: str) -> None:
    services = [
        each["metadata"]["name"]
        for each in rendered[name]
        if each["kind"] == "Deployment" and each["metadata"]["name"] != "redis"
    ]
    for service in services:
        certificate = named(rendered[name], "Certificate", service)["spec"]
        assert certificate["uris"] == [service_spiffe_id(service)]
        assert certificate["dnsNames"] == [service_dns_name(service)]
        mounted = named(rendered[name], "Deployment", service)["spec"]["template"]["spec"]["volumes"]
        assert certificate["secretName"] in [volume.get("secret", {}).get("secretName") for volume in mounted]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_secret_that_a_pod_mounts_comes_from_somewhere(rendered: dict[str, list[Json]], name: str) -> None:
    made = {each["spec"]["secretName"] for each in rendered[name] if each["kind"] == "Certificate"}
    made |= {each["spec"]["target"]["name"] for each in rendered[name] if each["kind"] == "ExternalSecret"}
    script = subprocess.run([K8S / "scripts/make-secrets.sh"], capture_output=True, text=True, check=True).stdout
    by_hand = {each["metadata"]["name"]: each["data"] for each in yaml.safe_load_all(script) if each}
    if name == "development":
        made |= by_hand.keys()
    if name == "staging":
        # Its databases are in the cluster: their own secrets are made once, by the same script.
        made |= {"postgres-admin", "postgres-init", "redis-configuration"}
    wanted = {
        volume["secret"]["secretName"]
        for each in rendered[name]
        if each["kind"] in k8s_rules.WORKLOADS
        for volume in k8s_rules.pod_spec(each).get("volumes", [])
        if "secret" in volume
    }
    assert wanted - made == set()
    roles = base64.b64decode(by_hand["postgres-init"]["roles.sql"]).decode()
    passwords = set(re.findall(r"PASSWORD '(\w+)'", roles))
    assert len(passwords) == roles.count("CREATE ROLE"), "two services have one password"


def test_only_production_waits_for_a_person(applications: list[Json]) -> None:
    automatic = {each["metadata"]["name"]: "automated" in each["spec"]["syncPolicy"] for each in applications}
    assert automatic == {
        "crosslogic-development": True,
        "crosslogic-staging": True,
        "crosslogic-production": False,
    }


def test_migrations_run_before_the_roll_out(rendered: dict[str, list[Json]]) -> None:
    jobs = {each["metadata"]["name"]: each for each in rendered["production"] if each["kind"] == "Job"}
    with_schema = {
        folder.parent.name.removeprefix("crosslogic_") for folder in ROOT.glob("services/*/src/*/migrations")
    }
    assert {name.removeprefix("migrate-") for name in jobs} == with_schema
    for job in jobs.values():
        assert job["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "PreSync"


def test_promotion_moves_the_tags_and_back(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    environ = {**os.environ, "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t"}
    environ["GIT_COMMITTER_EMAIL"] = "t@t"
    production = tmp_path / "k8s/overlays/production/kustomization.yaml"
    staging = tmp_path / "k8s/overlays/staging/kustomization.yaml"

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    def commit(what: str) -> None:
        assert run("git", "add", "-A").returncode == 0
        assert run("git", "commit", "-qm", what).returncode == 0

    assert run("git", "init", "-q").returncode == 0
    commit("before")
    old = production.read_text()
    staging.write_text(staging.read_text().replace("newTag: 0.1.0", "newTag: 0.2.0"))
    commit("staging moves")
    promoted = run("k8s/scripts/promote.sh", "staging", "production")
    assert promoted.returncode == 0, promoted.stderr
    assert production.read_text() == old.replace("newTag: 0.1.0", "newTag: 0.2.0")
    assert run("k8s/scripts/promote.sh", "--back", "production").returncode == 1, "it undid what is not committed"
    commit("promoted")
    assert run("k8s/scripts/promote.sh", "--back", "production").returncode == 0
    assert production.read_text() == old
    wrong = run("k8s/scripts/promote.sh", "staging", "moon")
    assert (wrong.returncode, wrong.stderr) == (1, "promote: there is no overlay moon\n")

"""What every workload must keep to. Pure: objects in, problems out."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
SERVING = ("Deployment", "StatefulSet", "DaemonSet")


def problems(objects: list[Json]) -> list[str]:
    """Every breach, as `kind/name: what`."""
    found: list[str] = []
    for each in objects:
        where = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] in WORKLOADS:
            found += [f"{where}: {problem}" for problem in _workload(each)]
            found += [f"{where}: {problem}" for problem in _neighbours(each, objects)]
        if each["kind"] == "Secret":
            found.append(f"{where}: a secret's value is in the manifest")
        if each["kind"] == "Ingress" and not each["spec"].get("tls"):
            found.append(f"{where}: no TLS")
    return found


def pod_spec(each: Json) -> Json:
    """The pod's specification of a workload."""
    spec = each["spec"]
    if each["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: Json = spec["template"]["spec"]
    return found


def pod_labels(each: Json) -> Json:
    """The labels of a workload's pods."""
    spec = each["spec"]
    if each["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    found: Json = spec["template"]["metadata"]["labels"]
    return found


def _workload(each: Json) -> Iterator[str]:
    pod = pod_spec(each)
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser", 0) == 0:
        yield "runs as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False:
        yield "gets a token of the cluster's API"
    if pod.get("serviceAccountName", "default") == "default":
        yield "runs as the default service account"
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares the host's namespaces"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        for problem in _container(container, serving=each["kind"] in SERVING and container in pod["containers"]):
            yield f"{container['name']} {problem}"
    if any("hostPath" in volume for volume in pod.get("volumes", [])):
        yield "mounts the host's files"


def _container(container: Json, *, serving: bool) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root file system"
    if security.get("capabilities", {}).get("drop") != ["ALL"] or security["capabilities"].get("add"):
        yield "keeps capabilities"
    resources = container.get("resources", {})
    for kind in ("requests", "limits"):
        if not {"cpu", "memory"} <= resources.get(kind, {}).keys():
            yield f"has no {kind}"
    if serving:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"has no {probe}"
    image = container["image"]
    if ":" not in image.rpartition("/")[2] or image.endswith(":latest"):
        yield f"takes whatever {image} is"
    for variable in container.get("env", []):
        if any(word in variable["name"] for word in ("TOKEN", "SECRET", "PASSWORD", "KEY")) and (
            "value" in variable and not variable["name"].endswith(("_FILE", "_HEADER"))
        ):
            yield f"has {variable['name']} in its manifest"


def _neighbours(each: Json, objects: list[Json]) -> Iterator[str]:
    labels = pod_labels(each)
    account = pod_spec(each).get("serviceAccountName")
    if account not in {other["metadata"]["name"] for other in objects if other["kind"] == "ServiceAccount"}:
        yield f"its service account {account} is not there"
    policies = [other["spec"] for other in objects if other["kind"] == "NetworkPolicy"]
    closed = {kind for policy in policies if not policy["podSelector"] for kind in policy["policyTypes"]}
    if closed != {"Ingress", "Egress"}:
        yield "the network is open where no policy names it"
    if not any(policy["podSelector"].get("matchLabels", {}).items() <= labels.items() for policy in policies):
        yield "no network policy names it"
    if each["kind"] == "Deployment" and each["spec"].get("replicas", 1) > 1:
        budgets = [other["spec"] for other in objects if other["kind"] == "PodDisruptionBudget"]
        if not any(budget["selector"]["matchLabels"].items() <= labels.items() for budget in budgets):
            yield "no disruption budget"
        if not pod_spec(each).get("topologySpreadConstraints"):
            yield "its pods may all be on one machine"

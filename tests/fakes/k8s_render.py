"""Manifests as Kubernetes would get them: rendered by kubectl and Helm, checked against the schemas."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import yaml

from tests.fakes.debian import debian_binary

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("development", "staging", "production")
KUBERNETES_VERSION = "1.33"
SCHEMAS = ROOT / "tools/k8s-schemas"

Json = dict[str, Any]


def kustomized(folder: Path, *, cache: Path) -> list[Json]:
    """What `kubectl apply -k` would send."""
    return _read(_run([str(debian_binary("kubernetes-client", "kubectl", cache)), "kustomize", str(folder)]))


def with_component(overlay: str, component: str, *, folder: Path, cache: Path) -> list[Json]:
    """An overlay into which somebody takes a component, as docs/deployment.md says. `folder` is for its copy."""
    shutil.copytree(K8S, folder / "k8s")
    copied = folder / "k8s/overlays" / overlay
    line = f"  - ../../components/{component}\n"
    before, components, after = (copied / "kustomization.yaml").read_text().partition("components:\n")
    (copied / "kustomization.yaml").write_text(before + components + ("" if line in after else line) + after)
    return kustomized(copied, cache=cache)


def helmed(chart: Path, *arguments: str) -> list[Json]:
    """What `helm install` would send."""
    helm = Path(sys.executable).parent / "helm"
    return _read(_run([str(helm), "template", "release", str(chart), "--namespace", "crosslogic-nodes", *arguments]))


def schema_problems(objects: list[Json]) -> list[str]:
    """What is wrong with each object, by its schema; empty strings where nothing is."""
    own = [_is_custom(each) for each in objects]
    custom = iter(_custom_problems([each for each, is_custom in zip(objects, own, strict=True) if is_custom]))
    return [next(custom) if is_custom else _core_problem(each) for each, is_custom in zip(objects, own, strict=True)]


def named(objects: list[Json], kind: str, name: str) -> Json:
    """The one object of that kind and name."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def _is_custom(each: Json) -> bool:
    group = each["apiVersion"].rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def _core_problem(each: Json) -> str:
    try:
        kubernetes_validate.validate(each, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError:
        return f"there is no {each['apiVersion']} {each['kind']}"
    return ""


def _custom_problems(objects: list[Json]) -> list[str]:
    if not objects:
        return []
    if not (SCHEMAS / "node_modules/typescript").is_dir():
        npm = ["npm", "install", "--no-save", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]
        _run(npm, folder=SCHEMAS)
    problems: list[str] = json.loads(_run(["node", "validate.mjs"], folder=SCHEMAS, stdin=json.dumps(objects)))
    return problems


def _read(text: str) -> list[Json]:
    return [each for each in yaml.safe_load_all(text) if each]


def _run(command: list[str], *, folder: Path = ROOT, stdin: str | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=180, check=False, env=os.environ
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"
    return done.stdout

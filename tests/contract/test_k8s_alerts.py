"""Alerts: each fires in its case, reads metrics that exist, and has a page in the runbook."""

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.debian import debian_binary, debian_folder
from tests.fakes.k8s_render import K8S, ROOT

MONITORING = K8S / "components/monitoring"
SEVERITIES = {"critical", "high", "medium"}
OURS = re.compile(
    r"\b(?:crosslogic|http|billing|auth|loadbalancer|rate_limit|node|nodes|tokens|usage)_[a-z_]+(?![a-z_]*[=~!])"
)
Json = dict[str, Any]


@pytest.fixture(scope="module")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return debian_binary("prometheus", "promtool", debian_folder(tmp_path_factory))


@pytest.fixture
def rules() -> Json:
    found: Json = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    return found


@pytest.fixture
def cases() -> Json:
    found: Json = yaml.safe_load((MONITORING / "rules.test.yaml").read_text())
    return found


def alerts(rules: Json) -> Iterator[Json]:
    return (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule)


def tried(promtool: Path, rules: Json, cases: Json, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "rules.plain.yaml").write_text(yaml.safe_dump(rules))
    plain = copy.deepcopy(cases)
    for case in plain["tests"]:
        case.pop("name")
    (folder / "cases.yaml").write_text(yaml.safe_dump(plain))
    command = [str(promtool), "test", "rules", "cases.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_alerts_fire_in_their_cases_and_not_before(promtool: Path, rules: Json, cases: Json, tmp_path: Path) -> None:
    done = tried(promtool, rules, cases, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {case["name"] for case in cases["tests"]} == {rule["alert"] for rule in alerts(rules)}


def test_alert_that_never_fires_is_found(promtool: Path, rules: Json, cases: Json, tmp_path: Path) -> None:
    for rule in alerts(rules):
        rule["expr"] = f"({rule['expr']}) and vector(1) > 2"
    done = tried(promtool, rules, cases, tmp_path)
    assert done.returncode != 0
    missed = set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr))
    assert missed == {rule["alert"] for rule in alerts(rules)}


def test_metrics_that_alerts_read_exist(rules: Json) -> None:
    documented = "".join(path.read_text() for path in ROOT.glob("services/*/README.md"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            for name in OURS.findall(rule["expr"]):
                if name.startswith("crosslogic:"):
                    continue
                known = {name, re.sub("_(bucket|count|sum|total)$", "", name)}
                assert any(f"`{each}" in documented for each in known), f"no service has {name}"


def test_the_backup_that_alerts_watch_is_the_one_that_is_made(rules: Json) -> None:
    made = next(yaml.safe_load_all((K8S / "components/backup/backup.yaml").read_text()))
    by_name = {rule["alert"]: rule["expr"] for rule in alerts(rules) if rule["alert"].startswith("Backup")}
    assert set(re.findall(r'cronjob="([^"]+)"', "".join(by_name.values()))) == {made["metadata"]["name"]}
    (every_h,) = re.findall(r"^\d+ \*/(\d+) \* \* \*$", made["spec"]["schedule"])
    (late_h,) = re.findall(r"> (\d+) \* 3600", by_name["BackupOld"])
    assert 2 * int(every_h) < int(late_h) < 3 * int(every_h)


def test_whoever_is_woken_finds_a_page(rules: Json) -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in alerts(rules))
    for rule in alerts(rules):
        assert rule["labels"]["severity"] in SEVERITIES
        assert rule["annotations"]["summary"]


def test_routes_send_what_is_critical_to_the_pager_and_the_rest_to_chat(tmp_path: Path) -> None:
    amtool = debian_binary("prometheus-alertmanager", "amtool", tmp_path)
    file = MONITORING / "alertmanager.yml"
    checked = subprocess.run([str(amtool), "check-config", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for severity, receiver in (("critical", "pager"), ("high", "chat"), ("medium", "chat"), ("none", "chat")):
        command = [str(amtool), "config", "routes", "test", f"--config.file={file}", f"severity={severity}"]
        routed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert routed.stdout.strip() == receiver, severity

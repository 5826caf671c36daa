"""Dashboards: the files are what the panels say, each is provisioned, and what they read exists."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts import k8s_dashboards
from scripts.dashboard_panels import DASHBOARDS
from tests.fakes.dashboard_exceptions import WITHOUT_DATA
from tests.fakes.debian import debian_binary, debian_folder
from tests.fakes.k8s_render import K8S, ROOT

NAMES = re.compile(
    r"\b(?:crosslogic|http|billing|auth|loadbalancer|rate_limit|node|nodes|tokens|usage)_[a-z_]+(?![a-z_]*[=~!])"
)


def test_files_are_what_the_panels_say_and_each_is_provisioned() -> None:
    folder = k8s_dashboards.TARGET
    wanted = {f"{board.uid}.json": k8s_dashboards.text(board) for board in DASHBOARDS}
    assert {file.name: file.read_text() for file in folder.iterdir()} == wanted, "run scripts/k8s_dashboards.py"
    [maps] = yaml.safe_load((K8S / "components/monitoring/kustomization.yaml").read_text())["configMapGenerator"]
    assert sorted(maps["files"]) == sorted(f"dashboards/{name}" for name in wanted)
    assert maps["options"]["labels"]["grafana_dashboard"] == "1"


def test_panels_do_not_overlap_and_say_what_they_mean() -> None:
    for board in DASHBOARDS:
        model = json.loads(k8s_dashboards.text(board))
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in model["panels"]]
        assert len(set(places)) == len(places)
        assert all(panel["description"] and panel["targets"] for panel in model["panels"])
        assert len({panel["title"] for panel in model["panels"]}) == len(model["panels"])


def test_metrics_that_dashboards_read_are_documented_or_recorded() -> None:
    documented = "".join(path.read_text() for path in ROOT.glob("services/*/README.md"))
    spec = yaml.safe_load((K8S / "components/monitoring/rules.yaml").read_text())["spec"]
    recorded = {rule["record"] for group in spec["groups"] for rule in group["rules"] if "record" in rule}
    queries = [query for board in DASHBOARDS for panel in board.panels for query, _ in panel.queries]
    used = {name for query in queries for name in re.findall(r"crosslogic:[a-z_0-9:]+", query)}
    assert used <= recorded
    for query in queries:
        for name in NAMES.findall(re.sub(r"crosslogic:[a-z_0-9:]+", "", query)):
            known = {name, re.sub("_(bucket|count|sum|total)$", "", name)}
            assert any(f"`{each}" in documented for each in known), f"no service has {name}"


def test_queries_of_what_a_suite_does_not_have_return_data_where_it_is(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    promtool = debian_binary("prometheus", "promtool", debian_folder(tmp_path_factory))
    cases = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in filled.series.items()],
            "promql_expr_test": [
                {
                    "expr": f"round({query})",
                    "eval_time": "60m",
                    "exp_samples": [{"labels": filled.labels, "value": filled.value}],
                }
            ],
        }
        for query, filled in WITHOUT_DATA.items()
    ]
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": cases}))
    command = [str(promtool), "test", "rules", "cases.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

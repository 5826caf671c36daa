"""The command line against a whole suite, as an operator and as a script."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from crosslogic_dev.suite import Suite
from crosslogic_dev.waiting import wait_until


def crosslogic(suite: Suite, *arguments: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {"PATH": os.environ["PATH"], "HOME": str(home), "COLUMNS": "200"}
    own = {
        "CROSSLOGIC_BASE_URL": suite.base_url,
        "CROSSLOGIC_ADMIN_TOKEN": suite.admin.token,
        "CROSSLOGIC_API_KEY": suite.api_key,
    }
    command = [sys.executable, "-m", "crosslogic_cli", *arguments]
    return subprocess.run(
        command, env={**inherited, **own, **environ}, capture_output=True, text=True, timeout=90, check=False, cwd=home
    )


def said(suite: Suite, *arguments: str, home: Path) -> Any:
    done = crosslogic(suite, "--json", *arguments, home=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_tenant_from_nothing_to_its_first_answer_and_its_bill(suite: Suite, tmp_path: Path) -> None:
    org = said(suite, "orgs", "create", "Acme", "--limit", "requests_per_minute=100", home=tmp_path)
    assert org["limits"]["requests_per_minute"] == 100
    env = said(suite, "envs", "create", org["id"], "production", home=tmp_path)
    key = said(suite, "keys", "create", env["id"], "--name", "ci", home=tmp_path)
    answer = crosslogic(
        suite, "chat", suite.model_name, "Hello", "--max-tokens", "4", home=tmp_path, CROSSLOGIC_API_KEY=key["key"]
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    (row,) = said(suite, "usage", "sum", "--by", "org", "--org", org["id"], home=tmp_path)
    assert (row["requests"], row["completion_tokens"]) == (1, 4)
    actions = [each["action"] for each in said(suite, "audit", "list", "--org", org["id"], home=tmp_path)]
    assert "org.create" in actions
    assert said(suite, "audit", "verify", home=tmp_path)["intact"] is True

    assert crosslogic(suite, "--yes", "keys", "revoke", key["id"], home=tmp_path).returncode == 0
    refused = crosslogic(suite, "chat", suite.model_name, "Hello", home=tmp_path, CROSSLOGIC_API_KEY=key["key"])
    assert (refused.returncode, refused.stdout) == (4, "\n") or refused.returncode == 4


def test_tables_for_people(suite: Suite, tmp_path: Path) -> None:
    listed = crosslogic(suite, "nodes", "list", home=tmp_path)
    assert listed.returncode == 0
    assert "tokens/s" in listed.stdout
    assert "active" in listed.stdout
    assert "1 nodes" in crosslogic(suite, "top", "--once", home=tmp_path).stdout
    assert suite.model_name in crosslogic(suite, "models", "list", home=tmp_path).stdout


def test_what_a_node_logged_is_read_by_an_operator(suite: Suite, tmp_path: Path) -> None:
    node = next(each["id"] for each in said(suite, "nodes", "list", home=tmp_path) if each["status"] == "active")

    def shipped() -> bool:
        shown = crosslogic(suite, "nodes", "logs", node, "--source", "agent", home=tmp_path)
        assert shown.returncode == 0, shown.stderr
        return '"service": "node_agent"' in shown.stdout

    assert wait_until(shipped, timeout_s=30)


def test_failures_are_one_line_and_a_code_of_their_own(suite: Suite, tmp_path: Path) -> None:
    cases = [
        (("orgs", "show", "01900000-0000-7000-8000-000000000000"), {}, 5, "There is no such"),
        (("orgs", "list"), {"CROSSLOGIC_ADMIN_TOKEN": "wrong"}, 4, ""),
        (("orgs", "list"), {"CROSSLOGIC_ADMIN_TOKEN": ""}, 2, "set CROSSLOGIC_ADMIN_TOKEN"),
        (("orgs", "list"), {"CROSSLOGIC_BASE_URL": "http://127.0.0.1:1"}, 3, "does not answer"),
        (("orgs", "create", "x", "--limit", "speed=9"), {}, 2, "NAME=NUMBER"),
        (("orgs", "suspend", "x"), {}, 2, "repeat with `crosslogic --yes"),
        (("nonsense",), {}, 2, "No such command"),
    ]
    for arguments, environ, code, words in cases:
        done = crosslogic(suite, *arguments, home=tmp_path, **environ)
        assert done.returncode == code, (arguments, done.stderr)
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_configuration_file_that_others_may_read_is_refused_with_a_secret_in_it(suite: Suite, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'base_url = "{suite.base_url}"\nadmin_token = "{suite.admin.token}"\n')
    file.chmod(0o644)
    given = {"CROSSLOGIC_CONFIG": str(file), "CROSSLOGIC_ADMIN_TOKEN": "", "CROSSLOGIC_BASE_URL": ""}
    refused = crosslogic(suite, "orgs", "list", home=tmp_path, **given)
    assert refused.returncode == 2
    assert "chmod 600" in refused.stderr
    file.chmod(0o600)
    assert crosslogic(suite, "orgs", "list", home=tmp_path, **given).returncode == 0
    file.write_text("colour = 3\n")
    assert "unknown settings: colour" in crosslogic(suite, "orgs", "list", home=tmp_path, **given).stderr


def test_launch_shows_its_progress_and_ends(suite: Suite, tmp_path: Path) -> None:
    launched = crosslogic(
        suite, "instances", "launch", suite.model_name, "--provider", "local", "--region", "local", home=tmp_path
    )
    assert launched.returncode == 0, launched.stderr
    assert "weights loading" in launched.stdout
    (machine,) = said(suite, "instances", "list", home=tmp_path)
    ended = crosslogic(suite, "--yes", "instances", "terminate", machine["id"], "--drain-timeout-s", "1", home=tmp_path)
    assert ended.returncode == 0, ended.stderr
    failed = crosslogic(
        suite, "instances", "launch", suite.model_name, "--provider", "moon", "--region", "local", home=tmp_path
    )
    assert failed.returncode == 1
    assert "`provider` must be one of `local`" in failed.stderr


def test_doctor_finds_a_suite_well_and_then_its_fault(suite: Suite, tmp_path: Path) -> None:
    environ = {"DATABASE_URL": suite.database_url, "REDIS_URL": suite.redis_url}
    arguments = ("--json", "doctor", "--tls", str(suite.run_dir.tls))
    well = crosslogic(suite, *arguments, home=tmp_path, **environ)
    assert well.returncode == 0, well.stdout
    assert {each["check"] for each in json.loads(well.stdout) if each["verdict"] == "well"} >= {
        "certificates",
        "redis",
        "database",
        "nodes",
        "clock",
        "versions",
    }
    suite.kill("redis")
    try:
        sick = crosslogic(suite, *arguments, home=tmp_path, **environ)
    finally:
        suite.start("redis")
    assert sick.returncode == 1
    assert "redis" in {each["check"] for each in json.loads(sick.stdout) if each["verdict"] == "broken"}

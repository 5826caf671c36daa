"""What a newcomer pastes from the README works as it stands there, and so do the examples of generated stubs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from crosslogic_dev.suite import Suite
from tests.e2e.conftest import ROOT
from tests.fakes.service_venvs import build_wheels, make_environment

DEFAULT_MODEL = "crosslogic-tiny"


def _block(language: str, holding: str) -> str:
    blocks = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    found = [text for name, text in blocks if name == language and holding in text]
    assert len(found) == 1
    return str(found[0])


def _run(suite: Suite, command: list[str], source: str, environ: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        input=source.replace(DEFAULT_MODEL, suite.model_name),
        cwd=suite.run_dir.path.parent,
        env={**os.environ, "NO_PROXY": "*", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_lines_to_type_next(suite: Suite) -> None:
    block = _block("", ". .run/env")
    assert DEFAULT_MODEL in block
    said = _run(suite, ["bash", "-eu"], block, {})
    assert '"error"' not in said
    assert "data: [DONE]" in said
    assert '"cost_usd"' in said
    assert '"name":"Acme"' in said
    assert '"status":"ready"' in said
    assert '"openapi"' in (suite.run_dir.path.parent / "openapi.json").read_text(encoding="utf-8")


def test_the_python_client(suite: Suite) -> None:
    environ = {"CROSSLOGIC_BASE_URL": suite.base_url, "CROSSLOGIC_API_KEY": suite.api_key}
    block = _block("python", "OpenAI(")
    assert DEFAULT_MODEL in block
    assert _run(suite, [sys.executable, "-"], block, environ).strip()


def test_the_client_of_the_admin_api(suite: Suite) -> None:
    environ = {"CROSSLOGIC_BASE_URL": suite.base_url, "CROSSLOGIC_ADMIN_TOKEN": suite.admin.token}
    assert "[" in _run(suite, [sys.executable, "-"], _block("python", "AdminClient("), environ)


def test_a_team_with_nothing_but_the_stub_wheel_calls_a_service(suite: Suite, tmp_path: Path) -> None:
    wheels = build_wheels(["crosslogic-protos"], tmp_path / "wheels")
    python = make_environment(tmp_path / "alone", name="crosslogic-protos", wheels=wheels)
    _lists_nodes(suite, [str(python), "-I", str(ROOT / "examples/python/list_nodes.py")])


def test_a_team_that_generates_stubs_for_typescript_calls_a_service(suite: Suite) -> None:
    built = [str(ROOT / "scripts/stub_example.sh"), "typescript"]
    subprocess.run(built, check=True, timeout=240)
    _lists_nodes(suite, ["node", str(ROOT / "examples/typescript/dist/list_nodes.js")])


def _lists_nodes(suite: Suite, command: list[str]) -> None:
    """One who may list nodes gets them, and one who may not gets our code."""
    with suite.operator() as operator:
        node = operator.nodes(suite.target("registry"))[0].id
    arguments = [*command, suite.target("registry"), str(suite.run_dir.tls)]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    for caller, code, told in (("operator", 0, node), ("billing", 1, "PERMISSION_DENIED PERMISSION_DENIED")):
        done = subprocess.run(
            [*arguments, caller], env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, told in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr

"""What a newcomer pastes from the README works as it stands there."""

import os
import re
import subprocess
import sys

from crosslogic_dev.suite import Suite
from tests.e2e.conftest import ROOT

DEFAULT_MODEL = "crosslogic-tiny"


def _block(language: str, holding: str) -> str:
    blocks = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    found = [text for name, text in blocks if name == language and holding in text]
    assert len(found) == 1
    assert DEFAULT_MODEL in found[0]
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
    said = _run(suite, ["bash", "-eu"], _block("", ". .run/env"), {})
    assert '"error"' not in said
    assert "data: [DONE]" in said
    assert '"cost_usd"' in said
    assert '"name":"Acme"' in said
    assert '"status":"ready"' in said
    assert '"openapi"' in (suite.run_dir.path.parent / "openapi.json").read_text(encoding="utf-8")


def test_the_python_client(suite: Suite) -> None:
    environ = {"CROSSLOGIC_BASE_URL": suite.base_url, "CROSSLOGIC_API_KEY": suite.api_key}
    assert _run(suite, [sys.executable, "-"], _block("python", "OpenAI("), environ).strip()

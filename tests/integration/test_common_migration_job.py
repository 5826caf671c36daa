"""The job that brings a schema up to date before a roll-out, as Kubernetes starts it."""

import os
import subprocess
import sys
from pathlib import Path


def job(*arguments: str, database_url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "crosslogic_common.migration_job", "--schema", "identity", *arguments]
    environ = {**os.environ, "DATABASE_URL_FILE": database_url}
    environ.pop("DATABASE_URL", None)
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_schema_is_brought_up_to_date_once_and_a_check_tells_what_waits(pg_url: str, tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text(pg_url)
    own = ("--migrations", "crosslogic_identity.migrations")

    behind = job(*own, "--check", database_url=str(url))
    assert behind.returncode == 1
    assert "identity: migrations wait: 0001_tenants.sql" in behind.stderr
    for _ in range(2):
        done = job(*own, database_url=str(url))
        assert done.returncode == 0, done.stderr
    assert job(*own, "--check", database_url=str(url)).returncode == 0


def test_job_that_cannot_work_says_what_to_change(tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text("postgresql://nobody@127.0.0.1:1/none")
    unknown = job("--migrations", "crosslogic_nothing.migrations", database_url=str(url))
    assert unknown.returncode == 1
    assert unknown.stderr.endswith("There is no package crosslogic_nothing: is the service installed here?\n")
    missing = job("--migrations", "crosslogic_identity.migrations", database_url=str(tmp_path / "none"))
    assert missing.returncode == 1
    assert "DATABASE_URL" in missing.stderr

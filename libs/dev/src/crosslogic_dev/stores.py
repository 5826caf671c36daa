"""PostgreSQL and Redis of a suite: its own, or servers that the environment names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from crosslogic_dev import postgres, redis
from crosslogic_dev.plan import Plan
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.progress import Progress
from crosslogic_dev.run_dir import RunDir


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the data is."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    started: tuple[str, ...]
    """What had to be started."""


def given_server(variable: str, environ: Mapping[str, str], run_dir: RunDir) -> str:
    """A server of the user's own, or nothing.

    Our own does not count: a shell that has read `.run/env` names it, and it has to be started all the same.
    """
    url = environ.get(variable, "")
    passwords = (run_dir.secret("postgres_password"), run_dir.secret("redis_password"))
    return "" if any(password in url for password in passwords) else url


def open_stores(
    plan: Plan,
    *,
    table: ProcessTable,
    run_dir: RunDir,
    environ: Mapping[str, str],
    durable: bool,
    progress: Progress,
) -> Stores:
    """Starts what is not there."""
    started: list[str] = []

    def one(name: str, label: str, variable: str, own_url: str, start: Callable[[], str]) -> str:
        given = given_server(variable, environ, run_dir)
        if given:
            progress(f"{label}: the server that {variable} names")
            return given
        if table.pid(name) is not None:
            return own_url
        url = start()
        started.append(name)
        progress(f"{label} runs on port {plan.ports[name]}")
        return url

    pg_port, redis_port = plan.ports[postgres.NAME], plan.ports[redis.NAME]
    database_url = one(
        postgres.NAME,
        "PostgreSQL",
        "DATABASE_URL",
        postgres.own_postgres_url(run_dir, port=pg_port),
        lambda: postgres.start_postgres(table, run_dir, port=pg_port, durable=durable),
    )
    redis_url = one(
        redis.NAME,
        "Redis",
        "REDIS_URL",
        redis.own_redis_url(run_dir, port=redis_port),
        lambda: redis.start_redis(table, run_dir, port=redis_port),
    )
    return Stores(database_url, redis_url, tuple(started))

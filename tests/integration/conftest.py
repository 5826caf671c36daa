"""Real PostgreSQL and Redis: from wheels, started once a session, or those that DATABASE_URL and REDIS_URL name.

And object storage: an S3 server of the tests, started once a session.
"""

import os
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import redis

from crosslogic_common.postgres import Pool, migrate, open_pool, transaction
from crosslogic_dev.ports import free_port
from crosslogic_dev.postgres import drop_database, ensure_database, start_postgres
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.redis import start_redis
from crosslogic_dev.run_dir import RunDir
from crosslogic_model_store.place import Place
from crosslogic_model_store.upload import open_client
from tests.fakes.s3_server import s3_server


@pytest.fixture(scope="session")
def servers_dir() -> Iterator[RunDir]:
    # Not pytest's own folder: nobody but root may enter that, and PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory(prefix="cl-servers-") as folder:
        Path(folder).chmod(0o711)
        run_dir = RunDir(Path(folder) / "run")
        run_dir.make()
        yield run_dir


@pytest.fixture(scope="session")
def pg_server(servers_dir: RunDir) -> Iterator[str]:
    given = os.environ.get("DATABASE_URL")
    if given:
        yield given
        return
    table = ProcessTable(servers_dir)
    try:
        yield start_postgres(table, servers_dir, port=free_port(), durable=False)
    finally:
        table.stop(["postgres"], number=signal.SIGINT)


@pytest.fixture(scope="session")
def redis_server(servers_dir: RunDir) -> Iterator[str]:
    given = os.environ.get("REDIS_URL")
    if given:
        yield given
        return
    table = ProcessTable(servers_dir)
    try:
        yield start_redis(table, servers_dir, port=free_port())
    finally:
        table.stop(["redis"])


@pytest.fixture(scope="module")
def pg_url(pg_server: str) -> Iterator[str]:
    """A fresh database for each test module."""
    url = f"{pg_server.rpartition('/')[0]}/test_{uuid.uuid4().hex}"
    ensure_database(url)
    try:
        yield url
    finally:
        drop_database(url)


@pytest.fixture
async def fleet_pool(pg_url: str) -> AsyncIterator[Pool]:
    """The orchestrator's database, without deployments, machines, jobs, events and notifications."""
    await migrate(pg_url, schema="fleet", migrations=files("crosslogic_orchestrator.migrations"))
    async with open_pool(pg_url, schema="fleet", max_size=8) as pool:
        async with transaction(pool) as connection:
            await connection.execute(
                "TRUNCATE deployments, loop_leases, instances, jobs, events, notify_routes, notify_cursors, "
                "notify_events, notify_deliveries, notify_delivery_events RESTART IDENTITY CASCADE"
            )
        yield pool


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """An empty Redis for each test."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server


@pytest.fixture(scope="session")
def object_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(scope="module")
def place(object_storage: Place) -> Place:
    """An empty bucket for each test module."""
    fresh = replace(object_storage, bucket=f"test-{uuid.uuid4().hex}")
    open_client(fresh).create_bucket(Bucket=fresh.bucket)
    return fresh

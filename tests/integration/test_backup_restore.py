"""Backup, destroy, restore: a real PostgreSQL, its own programs, and a bucket behind a real S3 API."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from crosslogic_backup.directory import Directory
from crosslogic_backup.domain import BackupError
from crosslogic_backup.service import Backups
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.postgres import migrate, open_pool
from crosslogic_dev.postgres import drop_database, ensure_database, programs
from crosslogic_model_store.place import Place
from crosslogic_orchestrator.scaling.domain import Deployment, History, Launch, Offer, Plan
from crosslogic_orchestrator.scaling.records import Decided
from crosslogic_orchestrator.scaling.store import ScalingStore
from tests.fakes.accountant_database import ledger_store, prepare_ledger
from tests.fakes.accountant_samples import prepared, sample_context, sample_record

ROOT = Path(__file__).parents[2]
SCHEMAS = {
    "identity": "identity",
    "registry": "registry",
    "accountant": "ledger",
    "billing": "billing",
    "orchestrator": "fleet",
}
MARK = uuid.uuid4().hex[:8]
BACKUP = f"backup_{MARK}"
Rows = dict[str, list[tuple[Any, ...]]]


def role_of(service: str) -> str:
    """Roles are the server's, which other tests use too."""
    return f"{service}_{MARK}"


def url_as(url: str, role: str) -> str:
    parts = urlsplit(url)
    return f"postgresql://{role}:secret-{MARK}@{parts.hostname}:{parts.port}{parts.path}"


def make_roles(url: str) -> None:
    """As k8s/scripts/make-secrets.sh has it: a role and a schema for each service, and one that reads everything."""
    with psycopg.connect(url, autocommit=True) as connection:
        database = sql.Identifier(urlsplit(url).path[1:])
        for service, schema in SCHEMAS.items():
            role = sql.Identifier(role_of(service))
            login(connection, role_of(service), "CREATE")
            connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(sql.Identifier(schema), role))
            connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, role))
        login(connection, BACKUP, "CREATE")
        connection.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(sql.Identifier(BACKUP)))


def login(connection: psycopg.Connection[Any], role: str, what: str) -> None:
    connection.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(sql.SQL(what), sql.Identifier(role), f"secret-{MARK}")
    )


def drop_roles(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for role in (*map(role_of, SCHEMAS), BACKUP):
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


async def fill(url: str, model: str, rows: int) -> None:
    store = ledger_store(url_as(url, role_of("accountant")))
    answers = await store.commit([prepared(sample_record(sample_context(model=model))) for _ in range(rows)])
    await store.close()
    assert len(answers) == rows


async def launch(url: str, *, region: str) -> int:
    """A deployment and the decision to launch two machines for it; the decision's number."""
    now = datetime.now(UTC)
    offer = Offer(
        provider="local",
        region=region,
        instance_type="",
        spot=True,
        price_picodollars=5,
        expected_price_picodollars=6,
        why="cheapest",
    )
    plan = Plan(desired=2, kept=0, needs=(), launches=(Launch(offer, "wanted", ""),) * 2, ends=())
    asked = Deployment(id=Uuid7Source().next_text(), model="m", region=region, max_nodes=3)
    async with open_pool(url_as(url, role_of("orchestrator")), schema="fleet", max_size=1) as pool:
        store = ScalingStore(pool, ids=Uuid7Source())
        kept = await store.create(asked, now=now)
        epoch = await store.lead(epoch=0, lease_s=0.0)
        decided = Decided(kept=kept, plan=plan, history=History(scaled_up_at=now), at=now, act=True)
        assert await store.carry_out(decided, epoch=epoch)
        (decision,) = await store.decisions(asked.id, before=0, limit=9)
    return decision.seq


def everything(url: str) -> tuple[Rows, Rows]:
    """Every row of every table as text, and every table's owner: read here, not by the code under test."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename, tableowner FROM pg_tables"
            " WHERE schemaname NOT LIKE 'pg\\_%' AND schemaname <> 'information_schema' ORDER BY 1, 2"
        ).fetchall()
        rows = {
            f"{schema}.{name}": connection.execute(
                sql.SQL("SELECT the_row::text FROM ONLY {} the_row ORDER BY 1").format(sql.Identifier(schema, name))
            ).fetchall()
            for schema, name, _ in tables
        }
        owners = {f"{schema}.{name}": [(owner,)] for schema, name, owner in tables}
    return rows, owners


def command(url: str, place: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a pod runs it: addresses and keys in files."""
    secret = folder / "url"
    secret.write_text(url + "\n")
    environ = {
        "PATH": f"{programs()}:{os.environ.get('PATH', os.defpath)}",
        "DATABASE_URL_FILE": str(secret),
        "AWS_EC2_METADATA_DISABLED": "true",
        **place,
    }
    return subprocess.run(
        [sys.executable, "-m", "crosslogic_backup", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def bucket(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return bucket_settings(place, tmp_path_factory.mktemp("s3"))


def bucket_settings(place: Place, folder: Path) -> dict[str, str]:
    key = folder / "secret_key"
    key.write_text(place.secret_access_key)
    return {
        "CROSSLOGIC_BACKUP_PLACE": f"s3://{place.bucket}/nightly",
        "CROSSLOGIC_BACKUP_S3_ENDPOINT": place.endpoint,
        "CROSSLOGIC_BACKUP_ACCESS_KEY_ID": place.access_key_id,
        "CROSSLOGIC_BACKUP_SECRET_ACCESS_KEY_FILE": str(key),
    }


@contextmanager
def writer(url: str) -> Iterator[list[int]]:
    """A process that goes on writing to the ledger's database while the block lasts."""
    script = (
        "import psycopg, sys\n"
        "c = psycopg.connect(sys.argv[1], autocommit=True)\n"
        "c.execute('CREATE TABLE IF NOT EXISTS ledger.numbered (n bigserial PRIMARY KEY, t text)')\n"
        "print('ready', flush=True)\n"
        "while True: c.execute(\"INSERT INTO ledger.numbered (t) VALUES ('x')\")\n"
    )
    arguments = [sys.executable, "-c", script, url_as(url, role_of("accountant"))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield [process.pid]
        finally:
            process.kill()


@pytest.fixture
async def database(pg_url: str) -> Any:
    """The control plane's schemas, each made by its own service's role, with a ledger in partitions."""
    make_roles(pg_url)
    for service, schema in SCHEMAS.items():
        as_service = url_as(pg_url, role_of(service))
        await migrate(as_service, schema=schema, migrations=files(f"crosslogic_{service}.migrations"))
    await prepare_ledger(url_as(pg_url, role_of("accountant")))
    await fill(pg_url, "before", 400)
    await launch(pg_url, region="before")
    yield pg_url
    drop_database(pg_url)
    ensure_database(pg_url)
    drop_roles(pg_url)


async def test_ledger_is_row_for_row_the_same_after_its_server_was_lost(
    database: str, bucket: dict[str, str], tmp_path: Path
) -> None:
    before, owners = everything(database)
    with writer(database):
        made = await asyncio.to_thread(command, url_as(database, BACKUP), bucket, tmp_path, "backup")
    assert made.returncode == 0, made.stderr
    await fill(database, "after the backup", 5)

    drop_database(database)
    ensure_database(database)
    drop_roles(database)
    restored = await asyncio.to_thread(command, database, bucket, tmp_path, "restore")
    assert restored.returncode == 0, restored.stderr

    after, owners_after = everything(database)
    numbered = after.pop("ledger.numbered")
    owners_after.pop("ledger.numbered")
    assert after == before
    assert sum(len(rows) for name, rows in after.items() if name.startswith("ledger.usage_records")) == 400
    machines, decisions = after["fleet.instances"], after["fleet.decisions"]
    assert (len(machines), len(decisions)) == (2, 1)
    assert owners_after == owners
    assert "missing and have no login" in restored.stderr

    # The services go on where they were: no migration waits, numbers do not repeat, partitions take rows.
    with psycopg.connect(database, autocommit=True) as connection:
        for role in (*map(role_of, SCHEMAS), BACKUP):
            if role != BACKUP:
                login(connection, role, "ALTER")
    for service, schema in SCHEMAS.items():
        as_service = url_as(database, role_of(service))
        assert await migrate(as_service, schema=schema, migrations=files(f"crosslogic_{service}.migrations")) == []
    with psycopg.connect(url_as(database, role_of("accountant"))) as connection:
        row = connection.execute("INSERT INTO ledger.numbered (t) VALUES ('y') RETURNING n").fetchone()
        assert row is not None
        assert row[0] > len(numbered)
    await fill(database, "afterwards", 7)
    assert await launch(database, region="afterwards") > 1
    with (
        psycopg.connect(url_as(database, role_of("orchestrator"))) as connection,
        pytest.raises(psycopg.errors.RaiseException, match="only ever added to"),
    ):
        connection.execute("DELETE FROM fleet.decisions")


def test_every_schema_that_a_service_keeps_is_backed_up_here_as_it_is_made_there() -> None:
    keepers = {folder.parts[-4] for folder in ROOT.glob("services/*/src/*/migrations")}
    assert set(SCHEMAS) == keepers
    for service, schema in SCHEMAS.items():
        assert f"[{service}]={schema}" in (ROOT / "k8s/scripts/make-secrets.sh").read_text(encoding="utf-8")


async def test_what_is_damaged_or_half_there_is_never_restored(database: str, tmp_path: Path) -> None:
    backups = Backups(
        dsn=database, place=Directory(tmp_path / "backups"), now=lambda: datetime.now(UTC), programs=programs()
    )
    with pytest.raises(BackupError, match="There is no backup"):
        backups.restore()
    name = backups.make().name
    assert backups.check(name).name == name
    with pytest.raises(BackupError, match="use --replace"):
        backups.restore(name)

    dump = tmp_path / "backups" / name / "dump"
    whole = dump.read_bytes()
    before, _ = everything(database)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (whole[:-1], bytes(flipped), b""):
        dump.write_bytes(damaged)
        with pytest.raises(BackupError, match="was damaged"):
            backups.restore(name, replace=True)
    assert everything(database)[0] == before
    dump.write_bytes(whole)

    # An upload that was killed: a dump without its manifest.
    (tmp_path / "backups/20990101T000000.000000Z").mkdir()
    (tmp_path / "backups/20990101T000000.000000Z/dump").write_bytes(b"half")
    assert [each.name for each in backups.all()] == [name]
    await fill(database, "to be overwritten", 3)
    backups.restore(replace=True)
    assert everything(database)[0] == before


def test_neighbours_that_are_away_are_told_in_one_line_without_their_passwords(
    pg_url: str, bucket: dict[str, str], tmp_path: Path
) -> None:
    cases = {
        "cannot be reached": ("postgresql://x:hidden-word@127.0.0.1:1/y", bucket),
        "in bucket nowhere": (f"{pg_url}?keepalives=1", {**bucket, "CROSSLOGIC_BACKUP_PLACE": "s3://nowhere"}),
    }
    for told, (url, place) in cases.items():
        found = command(url, place, tmp_path, "backup")
        assert (found.returncode, told in found.stderr) == (1, True), found.stderr
        assert "Traceback" not in found.stderr
        assert "hidden-word" not in found.stderr


def test_old_backups_are_removed_whole(pg_url: str, tmp_path: Path) -> None:
    at = [datetime(2026, 1, 1, tzinfo=UTC)]
    place = Directory(tmp_path)
    backups = Backups(dsn=pg_url, place=place, now=lambda: at[0], programs=programs())
    first, second = backups.make(), None
    for days in (20, 20):
        at[0] += timedelta(days=days)
        second = backups.make()
    assert second is not None
    assert backups.prune(keep_days=30, keep_least=1) == [first.name]
    assert {name.partition("/")[0] for name in place.names()} == {each.name for each in backups.all()}
    assert len(backups.all()) == 2

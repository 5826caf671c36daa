"""The use cases: back up, restore, look, prune."""

import hashlib
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psycopg

from crosslogic_backup import contents, tools
from crosslogic_backup.domain import BackupError, Manifest
from crosslogic_backup.policy import differences, outlived
from crosslogic_backup.ports import Place
from crosslogic_common.logs import get_logger

DUMP, MANIFEST = "dump", "manifest.json"
_BLOCK_BYTES = 1024 * 1024


class Backups:
    """The backups of one database at one place."""

    def __init__(
        self,
        *,
        dsn: str,
        place: Place,
        now: Callable[[], datetime],
        lock_wait_s: int = 60,
        programs: Path | None = None,
        workspace: Path | None = None,
    ) -> None:
        """`programs`: the folder of pg_dump and pg_restore, if not in PATH.

        `workspace`: where there is room for a dump, if not in the system's folder for temporary files.
        """
        self._dsn = dsn
        self._place = place
        self._now = now
        self._lock_wait_s = lock_wait_s
        self._programs = programs
        self._workspace = workspace
        self._log = get_logger(__name__)

    def make(self) -> Manifest:
        """Dumps the database as it is at one moment, with a digest of every table. Raises BackupError."""
        created = self._now()
        with tempfile.TemporaryDirectory(dir=self._workspace) as folder:
            dump = Path(folder) / DUMP
            with _connected(self._dsn) as connection:
                snapshot = contents.open_snapshot(connection)
                sequences = contents.sequences(connection)
                self._dump(dump, snapshot)
                manifest = Manifest(
                    name=created.strftime("%Y%m%dT%H%M%S.%fZ"),
                    created=created,
                    server_version=contents.server_version(connection),
                    dump_bytes=dump.stat().st_size,
                    dump_sha256=_sha256(dump),
                    tables=tuple(contents.tables(connection)),
                    sequences=tuple(sequences),
                    roles=tuple(contents.roles(connection)),
                    grants=tuple(contents.grants(connection)),
                )
            self._place.put(f"{manifest.name}/{DUMP}", dump)
            written = Path(folder) / MANIFEST
            written.write_bytes(manifest.to_json())
            self._place.put(f"{manifest.name}/{MANIFEST}", written)
        self._log.info("backed up", **_facts(manifest))
        return manifest

    def all(self) -> list[Manifest]:
        """Every backup, the oldest first; an upload that did not come to its end is none."""
        names = [name for name in self._place.names() if name.endswith(f"/{MANIFEST}")]
        with tempfile.TemporaryDirectory(dir=self._workspace) as folder:
            return sorted((self._manifest(name, Path(folder)) for name in names), key=lambda each: each.created)

    def check(self, name: str) -> Manifest:
        """Fetches a backup and compares its dump with its manifest. Raises BackupError."""
        with tempfile.TemporaryDirectory(dir=self._workspace) as folder:
            return self._fetch(name, Path(folder) / DUMP)

    def restore(self, name: str = "latest", *, replace: bool = False) -> Manifest:
        """Puts a backup into the database, then compares every table with it.

        Before anything is touched the whole backup was fetched and its checksum compared. A database that has tables is
        only overwritten with `replace`. Raises BackupError; the database is then empty, or as it was.
        """
        with tempfile.TemporaryDirectory(dir=self._workspace) as folder:
            dump = Path(folder) / DUMP
            manifest = self._fetch(name, dump)
            with _connected(self._dsn) as connection:
                there = contents.some_tables(connection)
                if there and not replace:
                    raise BackupError(f"The database has tables ({', '.join(there)}, ...): empty it, or use --replace.")
                made = contents.make_missing_roles(connection, manifest.roles)
                # With --clean pg_restore would stumble over partitions.
                contents.drop_schemas(connection)
            if made:
                self._log.warning("roles were missing and have no login yet", roles=made)
            arguments = ["--exit-on-error", "--single-transaction", str(dump)]
            tools.run("pg_restore", arguments, dsn=self._dsn, folder=self._programs)
        with _connected(self._dsn) as connection:
            contents.give_back_grants(connection, manifest.grants)
            connection.execute("ANALYZE")
            connection.commit()
            contents.open_snapshot(connection)
            wrong = differences(manifest, contents.tables(connection), contents.sequences(connection))
        if wrong:
            raise BackupError("The restored database is not what was backed up:\n" + "\n".join(wrong))
        self._log.info("restored, every row as it was", **_facts(manifest))
        return manifest

    def prune(self, *, keep_days: int, keep_least: int) -> list[str]:
        """Removes backups that nobody needs any more, the manifest first; their names."""
        gone = outlived(self.all(), now=self._now(), keep_days=keep_days, keep_least=keep_least)
        for each in gone:
            self._place.delete(f"{each.name}/{MANIFEST}")
            self._place.delete(f"{each.name}/{DUMP}")
        names = [each.name for each in gone]
        if names:
            self._log.info("removed old backups", names=names)
        return names

    def _dump(self, file: Path, snapshot: str) -> None:
        arguments = ["--format=custom", f"--snapshot={snapshot}", f"--file={file}"]
        arguments.append(f"--lock-wait-timeout={self._lock_wait_s}s")
        tools.run("pg_dump", arguments, dsn=self._dsn, folder=self._programs)

    def _manifest(self, name: str, folder: Path) -> Manifest:
        file = folder / MANIFEST
        self._place.get(name, file)
        return Manifest.from_json(file.read_bytes())

    def _fetch(self, name: str, dump: Path) -> Manifest:
        if name == "latest":
            known = self.all()
            if not known:
                raise BackupError("There is no backup at this place.")
            manifest = known[-1]
        else:
            manifest = self._manifest(f"{name}/{MANIFEST}", dump.parent)
        self._place.get(f"{manifest.name}/{DUMP}", dump)
        if (dump.stat().st_size, _sha256(dump)) != (manifest.dump_bytes, manifest.dump_sha256):
            raise BackupError(f"The dump of backup {manifest.name} was damaged: choose another (`list` shows them).")
        return manifest


def _connected(dsn: str) -> contents.Connection:
    try:
        return psycopg.connect(dsn, connect_timeout=10)
    except psycopg.Error as error:
        raise BackupError(f"The database cannot be reached: {error}") from error


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _facts(manifest: Manifest) -> dict[str, object]:
    return {
        "name": manifest.name,
        "tables": len(manifest.tables),
        "rows": manifest.rows,
        "dump_bytes": manifest.dump_bytes,
    }

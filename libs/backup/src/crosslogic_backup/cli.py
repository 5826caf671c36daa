"""The command line of backups, as the CronJob and the restore Job of k8s/components/backup call it.

python -m crosslogic_backup backup                  # then removes what is too old
python -m crosslogic_backup list
python -m crosslogic_backup check latest            # fetches it and compares checksums
python -m crosslogic_backup restore latest          # into an empty database, then compares every table
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg

from crosslogic_backup.domain import BackupError, Manifest
from crosslogic_backup.service import Backups
from crosslogic_backup.settings import BackupSettings
from crosslogic_common.logs import configure_logging
from crosslogic_common.process import read_settings


def main(argv: Sequence[str] | None = None) -> None:
    """Ends the process with code 1 and one line when it cannot do its work."""
    chosen = parse_arguments(argv)
    configure_logging("backup", "INFO")
    settings = read_settings(BackupSettings, os.environ)
    backups = Backups(
        dsn=settings.database_url.reveal(),
        place=settings.open_place(),
        now=lambda: datetime.now(UTC),
        lock_wait_s=settings.lock_wait_s,
    )
    try:
        _run(chosen, backups, settings)
    except BackupError as error:
        sys.exit(str(error))
    except psycopg.Error as error:
        sys.exit(f"PostgreSQL refused: {error}")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for; ends the process with code 2 when it asks for nothing that there is."""
    parser = argparse.ArgumentParser(prog="crosslogic-backup", description="Backs the database up, and restores it.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("backup", help="make a backup, then remove those that are too old")
    commands.add_parser("list", help="the backups there are, the oldest first")
    check = commands.add_parser("check", help="fetch a backup and compare its checksums")
    restore = commands.add_parser("restore", help="put a backup into an empty database and compare every table")
    restore.add_argument("--replace", action="store_true", help="overwrite what the database has now")
    for command in (check, restore):
        command.add_argument("name", nargs="?", default="latest", help="which one, by its name in `list`")
    return parser.parse_args(argv)


def _run(chosen: argparse.Namespace, backups: Backups, settings: BackupSettings) -> None:
    if chosen.command == "backup":
        _tell(backups.make())
        backups.prune(keep_days=settings.keep_days, keep_least=settings.keep_least)
    elif chosen.command == "list":
        for each in backups.all():
            _tell(each)
    elif chosen.command == "check":
        _tell(backups.check(chosen.name))
    else:
        _tell(backups.restore(chosen.name, replace=chosen.replace))


def _tell(each: Manifest) -> None:
    sys.stdout.write(f"{each.name}  {each.rows} rows in {len(each.tables)} tables, {each.dump_bytes} bytes\n")

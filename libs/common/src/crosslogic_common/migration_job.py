"""`python -m crosslogic_common.migration_job`: brings one service's schema up to date, before its roll-out.

    python -m crosslogic_common.migration_job --schema identity --migrations crosslogic_identity.migrations

The database is `DATABASE_URL`, or the file that `DATABASE_URL_FILE` names. With `--check` nothing is changed: it ends
with code 1, and names them, when migrations wait.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from crosslogic_common.errors import CodedError
from crosslogic_common.logs import configure_logging
from crosslogic_common.postgres import MigrationError, migrate, waiting_migrations
from crosslogic_common.process import StartError, read_settings
from crosslogic_common.settings import Secret, Settings, secret_setting


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSettings(Settings):
    """Where the schema is."""

    database_url: Secret = secret_setting("DATABASE_URL", doc="PostgreSQL, as a libpq address")


def main(argv: Sequence[str] | None = None) -> None:
    """The command. Ends the process with code 1 and one line when it cannot do its work."""
    parser = argparse.ArgumentParser(description="Brings one service's schema up to date.")
    parser.add_argument("--schema", required=True, help="the schema's name")
    parser.add_argument("--migrations", required=True, help="the package that holds its *.sql files")
    parser.add_argument("--check", action="store_true", help="only tell which migrations wait")
    chosen = parser.parse_args(argv)
    configure_logging("migration_job", "INFO")
    dsn = read_settings(MigrationSettings, os.environ).database_url.reveal()
    try:
        migrations = files(chosen.migrations)
    except ModuleNotFoundError as error:
        sys.exit(f"There is no package {error.name}: is the service installed here?")
    try:
        if not chosen.check:
            asyncio.run(migrate(dsn, schema=chosen.schema, migrations=migrations))
            return
        waiting = asyncio.run(waiting_migrations(dsn, schema=chosen.schema, migrations=migrations))
    except (MigrationError, StartError, CodedError) as error:
        sys.exit(f"The schema could not be brought up to date: {error}")
    if waiting:
        sys.exit(f"{chosen.schema}: migrations wait: {', '.join(waiting)}")


if __name__ == "__main__":
    main()

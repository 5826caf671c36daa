"""PostgreSQL's own programs."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from crosslogic_backup.domain import BackupError


def run(program: str, arguments: Sequence[str], *, dsn: str, folder: Path | None = None) -> None:
    """Runs it against a database, whose password no process list shows. Raises BackupError.

    `folder`: where the program is, if not in PATH.
    """
    path = str(folder / program) if folder else program
    given = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    environ = {**os.environ, "PGPASSWORD": given.pop("password", ""), "PGAPPNAME": "crosslogic-backup"}
    address = make_conninfo("", **given)
    try:
        done = subprocess.run(  # noqa: S603  # our own arguments
            [path, "--no-password", f"--dbname={address}", *arguments],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BackupError(f"{program} cannot be started: {error.strerror}. Are PostgreSQL's programs here?") from error
    if done.returncode != 0:
        raise BackupError(f"{program} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")

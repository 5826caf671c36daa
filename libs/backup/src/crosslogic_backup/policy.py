"""Which backups are kept. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from crosslogic_backup.domain import Manifest, SequenceValue, TableDigest


def outlived(backups: Sequence[Manifest], *, now: datetime, keep_days: int, keep_least: int) -> list[Manifest]:
    """Those older than `keep_days`, but never the newest `keep_least`.

    When backups fail for a month, the last good ones must not be thrown away.
    """
    newest_first = sorted(backups, key=lambda each: each.created, reverse=True)
    return [each for each in newest_first[keep_least:] if now - each.created > timedelta(days=keep_days)]


def differences(wanted: Manifest, tables: Sequence[TableDigest], sequences: Sequence[SequenceValue]) -> list[str]:
    """What a restored database does not have as its backup says, a line each."""
    had = {each.name: each for each in wanted.tables}
    has = {each.name: each for each in tables}
    found = [f"{name}: the table is missing" for name in sorted(had.keys() - has.keys())]
    found += [f"{name}: a table that the backup does not know" for name in sorted(has.keys() - had.keys())]
    for name in sorted(had.keys() & has.keys()):
        if had[name].rows != has[name].rows:
            found.append(f"{name}: {has[name].rows} rows instead of {had[name].rows}")
        elif had[name].digest != has[name].digest:
            found.append(f"{name}: {had[name].rows} rows, but not the same ones")
    now_at = {each.name: each.last_value for each in sequences}
    # A sequence may have gone on while the dump was made. One that is behind would give a number a second time.
    found += [
        f"{each.name}: the sequence is at {now_at.get(each.name, 'nothing')}, behind {each.last_value}"
        for each in wanted.sequences
        if now_at.get(each.name, each.last_value - 1) < each.last_value
    ]
    return found

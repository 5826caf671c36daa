"""Which backups stay, what a restore must have given, and what a manifest is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from crosslogic_backup.domain import BackupError, DatabaseGrant, Manifest, SequenceValue, TableDigest
from crosslogic_backup.policy import differences, outlived
from crosslogic_backup.settings import BackupSettings
from crosslogic_common.settings import SettingsError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
USAGE, PRICES = TableDigest('"ledger"."usage"', 3, "17"), TableDigest('"billing"."prices"', 1, "4")
NUMBERS = SequenceValue('"billing"."numbers"', 41)
MANIFEST = Manifest(
    name="one",
    created=NOW,
    server_version="18.0",
    dump_bytes=10,
    dump_sha256="00",
    tables=(PRICES, USAGE),
    sequences=(NUMBERS,),
    roles=("accountant",),
    grants=(DatabaseGrant("accountant", "CREATE"),),
)


def aged(*days: int) -> list[Manifest]:
    return [replace(MANIFEST, name=f"{age}", created=NOW - timedelta(days=age)) for age in days]


def test_backups_go_after_30_days() -> None:
    gone = outlived(aged(1, 29, 30, 31, 90), now=NOW, keep_days=30, keep_least=1)
    assert [each.name for each in gone] == ["31", "90"]


def test_the_last_good_backups_stay_when_none_was_made_for_a_month() -> None:
    gone = outlived(aged(40, 41, 42, 43), now=NOW, keep_days=30, keep_least=3)
    assert [each.name for each in gone] == ["43"]


def test_a_restore_that_is_not_what_was_backed_up_is_told_table_by_table() -> None:
    assert differences(MANIFEST, MANIFEST.tables, MANIFEST.sequences) == []
    assert differences(MANIFEST, [USAGE], MANIFEST.sequences) == ['"billing"."prices": the table is missing']
    extra = TableDigest('"x"."y"', 0, "0")
    assert differences(MANIFEST, [*MANIFEST.tables, extra], MANIFEST.sequences) == [
        '"x"."y": a table that the backup does not know'
    ]
    assert differences(MANIFEST, [PRICES, replace(USAGE, rows=2)], MANIFEST.sequences) == [
        '"ledger"."usage": 2 rows instead of 3'
    ]
    assert differences(MANIFEST, [PRICES, replace(USAGE, digest="18")], MANIFEST.sequences) == [
        '"ledger"."usage": 3 rows, but not the same ones'
    ]


def test_a_sequence_may_be_ahead_of_its_backup_but_never_behind() -> None:
    assert differences(MANIFEST, MANIFEST.tables, [replace(NUMBERS, last_value=42)]) == []
    assert differences(MANIFEST, MANIFEST.tables, [replace(NUMBERS, last_value=40)]) != []
    assert differences(MANIFEST, MANIFEST.tables, []) != []


def test_a_manifest_reads_back_and_nonsense_does_not() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    later = MANIFEST.to_json().replace(b'"format": 1', b'"format": 2')
    for raw in (b"", b"[]", b"{}", b'{"format": 1}', b"null", later, MANIFEST.to_json().replace(b'"rows"', b'"rosw"')):
        with pytest.raises(BackupError):
            Manifest.from_json(raw)


@pytest.mark.parametrize("place", ["", "bucket", "s3://", "file://host/x", "file:folder", "http://x/y"])
def test_a_place_that_is_none_is_refused_before_anything_is_dumped(place: str) -> None:
    with pytest.raises(SettingsError, match="CROSSLOGIC_BACKUP_PLACE"):
        BackupSettings.from_env({"DATABASE_URL": "postgresql://x/y", "CROSSLOGIC_BACKUP_PLACE": place})

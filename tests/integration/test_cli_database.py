"""`crosslogic doctor` knows schemas that are behind."""

import asyncio
from importlib.resources import files

from crosslogic_cli.machine_checks import SCHEMAS, check_database
from crosslogic_common.postgres import migrate


def test_migrations_behind(pg_url: str) -> None:
    behind = check_database(pg_url)
    assert {each.what.partition(" ")[0] for each in behind} == set(SCHEMAS.values())
    assert "migration_job --schema ledger" in next(each.fix for each in behind if each.what.startswith("ledger"))
    for service, schema in SCHEMAS.items():
        asyncio.run(migrate(pg_url, schema=schema, migrations=files(f"crosslogic_{service}.migrations")))
    assert [each.verdict for each in check_database(pg_url)] == ["well"]

"""What a database holds, read so that two databases can be compared. All SQL of this package."""

from typing import Any

import psycopg
from psycopg import sql

from crosslogic_backup.domain import DatabaseGrant, SequenceValue, TableDigest

Connection = psycopg.Connection[tuple[Any, ...]]
_TABLES = """
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = ANY(%s) AND c.relpersistence = 'p'
    AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (
        SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    )
"""
# A row's text must not depend on who reads it.
_AS_TEXT = (
    "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'iso_8601';"
    "SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'; SET LOCAL search_path = '';"
)


def open_snapshot(connection: Connection) -> str:
    """Begins a transaction that sees one moment; the name under which pg_dump can see the same one."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(_AS_TEXT)
    row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    return str(row[0]) if row else ""


def tables(connection: Connection) -> list[TableDigest]:
    """Every table with rows of its own, partitions one by one, with its digest. Reads everything."""
    found = connection.execute(f"SELECT n.nspname, c.relname {_TABLES} ORDER BY 1, 2", (["r"],)).fetchall()
    return [_digest(connection, schema, name) for schema, name in found]


def _digest(connection: Connection, schema: str, name: str) -> TableDigest:
    table = sql.Identifier(schema, name)
    query = sql.SQL(
        "SELECT count(*), coalesce(sum(('x' || substr(md5(the_whole_row::text), 1, 15))::bit(60)::bigint), 0)::text"
        " FROM ONLY {} AS the_whole_row"
    )
    row = connection.execute(query.format(table)).fetchone()
    return TableDigest(table.as_string(connection), int(row[0]), str(row[1])) if row else TableDigest(name, 0, "0")


def sequences(connection: Connection) -> list[SequenceValue]:
    """Where every sequence that was ever used stands."""
    found = connection.execute(
        "SELECT schemaname, sequencename, last_value FROM pg_sequences WHERE last_value IS NOT NULL ORDER BY 1, 2"
    ).fetchall()
    return [SequenceValue(f'"{schema}"."{name}"', int(value)) for schema, name, value in found]


def roles(connection: Connection) -> list[str]:
    """Who owns something here or was given a right, but for PostgreSQL's own roles."""
    found = connection.execute(
        """SELECT DISTINCT r.rolname FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
           WHERE s.refclassid = 'pg_authid'::regclass AND r.rolname NOT LIKE 'pg\\_%'
             AND (s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                  OR (s.dbid = 0 AND s.classid = 'pg_database'::regclass
                      AND s.objid = (SELECT oid FROM pg_database WHERE datname = current_database())))
           ORDER BY 1"""
    ).fetchall()
    return [row[0] for row in found]


def grants(connection: Connection) -> list[DatabaseGrant]:
    """Rights on the database itself."""
    found = connection.execute(
        """SELECT r.rolname, a.privilege_type FROM pg_database d, aclexplode(d.datacl) a
           JOIN pg_roles r ON r.oid = a.grantee WHERE d.datname = current_database() ORDER BY 1, 2"""
    ).fetchall()
    return [DatabaseGrant(*row) for row in found]


def server_version(connection: Connection) -> str:
    """As the server says it."""
    row = connection.execute("SHOW server_version").fetchone()
    return str(row[0]) if row else ""


def some_tables(connection: Connection) -> list[str]:
    """Tables that are there, at most five of them."""
    found = connection.execute(f"SELECT n.nspname, c.relname {_TABLES} ORDER BY 1, 2 LIMIT 5", (["r", "p"],)).fetchall()
    return [f"{schema}.{name}" for schema, name in found]


def drop_schemas(connection: Connection) -> None:
    """Drops every schema but PostgreSQL's own and `public`, with what is in it."""
    found = connection.execute(
        "SELECT nspname FROM pg_namespace"
        " WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'public')"
    ).fetchall()
    for (schema,) in found:
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))


def make_missing_roles(connection: Connection, wanted: tuple[str, ...]) -> list[str]:
    """Makes roles that are not there, and returns them. Without a login: the passwords are in no backup."""
    made = []
    for role in wanted:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
            made.append(role)
    return made


def give_back_grants(connection: Connection, wanted: tuple[DatabaseGrant, ...]) -> None:
    """Rights on the database, which a dump does not hold."""
    row = connection.execute("SELECT current_database()").fetchone()
    database = sql.Identifier(str(row[0]) if row else "")
    for each in wanted:
        connection.execute(
            sql.SQL("GRANT {} ON DATABASE {} TO {}").format(
                sql.SQL(each.privilege),
                database,
                sql.Identifier(each.role),
            )
        )

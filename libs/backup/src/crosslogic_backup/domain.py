"""The words of a backup."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

FORMAT = 1


class BackupError(Exception):
    """A backup or a restore cannot be done, or did not give what it should; the message says what to do."""


@dataclass(frozen=True, slots=True, order=True)
class TableDigest:
    """What a table held."""

    name: str
    """schema.table, quoted as SQL wants it."""
    rows: int
    digest: str
    """A sum over all rows that does not depend on their order."""


@dataclass(frozen=True, slots=True, order=True)
class SequenceValue:
    """Where a sequence stood."""

    name: str
    last_value: int


@dataclass(frozen=True, slots=True, order=True)
class DatabaseGrant:
    """A right on the database itself, which a dump does not hold."""

    role: str
    privilege: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup is made of. It is written last: without it there is no backup."""

    name: str
    created: datetime
    """UTC; everything that was committed before is in it."""
    server_version: str
    dump_bytes: int
    dump_sha256: str
    tables: tuple[TableDigest, ...]
    sequences: tuple[SequenceValue, ...]
    roles: tuple[str, ...]
    """Who owns things in it or has rights on them."""
    grants: tuple[DatabaseGrant, ...]

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.rows for table in self.tables)

    def to_json(self) -> bytes:
        """As it is stored."""
        return json.dumps({"format": FORMAT, **asdict(self), "created": self.created.isoformat()}, indent=1).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> "Manifest":
        """Raises BackupError when it is none, or one of a later version."""
        try:
            value: dict[str, Any] = json.loads(raw)
            if value.pop("format") != FORMAT:
                raise BackupError("The backup was made by a later version of this program: use that one.")
            return cls(
                **{
                    **value,
                    "created": datetime.fromisoformat(value["created"]),
                    "tables": tuple(TableDigest(**each) for each in value["tables"]),
                    "sequences": tuple(SequenceValue(**each) for each in value["sequences"]),
                    "roles": tuple(value["roles"]),
                    "grants": tuple(DatabaseGrant(**each) for each in value["grants"]),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(f"The backup's manifest cannot be read: {error!r}") from error

"""Identity's words as rows of PostgreSQL and back: the one place where columns are named."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Generic, LiteralString, TypeVar
from uuid import UUID

from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from crosslogic_identity.domain import ApiKey, Environment, Limits, Org, Plan, User

Thing = TypeVar("Thing", Org, Environment, ApiKey, Plan, User)


@dataclass(frozen=True, slots=True)
class Table(Generic[Thing]):
    """How one kind of thing is stored."""

    make: Callable[..., Thing]
    columns: tuple[LiteralString, ...]
    """Named like the fields; the id (or a plan's name) first."""

    def selected(self, alias: LiteralString) -> LiteralString:
        """The columns of a SELECT."""
        return ", ".join([f"{alias}.{column}" for column in self.columns])

    def read(self, row: TupleRow) -> Thing:
        """The thing of a row with these columns."""
        return self.make(**{name: _from_column(name, value) for name, value in zip(self.columns, row, strict=True)})

    def insert(self, table: LiteralString, *, extra: LiteralString = "") -> LiteralString:
        """An INSERT whose values are `values`, and one for `extra`."""
        columns = (*self.columns, extra) if extra else self.columns
        named: LiteralString = ", ".join(columns)
        places: LiteralString = ", ".join([f"%({column})s" for column in columns])
        return f"INSERT INTO {table} ({named}) VALUES ({places})"  # noqa: S608  # constants of this package

    def update(self, table: LiteralString) -> LiteralString:
        """An UPDATE of all columns but the first, which says which row."""
        named: LiteralString = ", ".join([f"{column} = %({column})s" for column in self.columns[1:]])
        return f"UPDATE {table} SET {named} WHERE {self.columns[0]} = %({self.columns[0]})s"  # noqa: S608  # so here

    def values(self, thing: Thing, **extra: object) -> Mapping[str, object]:
        """What goes into the columns."""
        return {name: _to_column(name, getattr(thing, name)) for name in self.columns} | extra


_PLAIN: Mapping[type, Callable[[Any], Any]] = MappingProxyType({UUID: str, Decimal: int, list: tuple})


def _names(kind: type[Any]) -> tuple[LiteralString, ...]:
    # The fields of our own dataclasses: constants of this package.
    return tuple(one.name for one in fields(kind))


ORGS: Table[Org] = Table(Org, _names(Org))
ENVIRONMENTS: Table[Environment] = Table(Environment, _names(Environment))
KEYS: Table[ApiKey] = Table(ApiKey, _names(ApiKey))
PLANS: Table[Plan] = Table(Plan, _names(Plan))
USERS: Table[User] = Table(User, _names(User))


def _from_column(name: str, value: Any) -> Any:
    if name.endswith("limits"):
        return Limits(**value)
    if name == "reserved_capacity":
        return tuple(sorted(value.items()))
    if name == "org_id" and value is None:
        return ""
    plain = _PLAIN.get(type(value))
    return value if plain is None else plain(value)


def _to_column(name: str, value: Any) -> Any:
    if isinstance(value, Limits):
        return Jsonb({field: number for field, number in asdict(value).items() if number is not None})
    if name == "reserved_capacity":
        return Jsonb(dict(value))
    if isinstance(value, tuple):
        return list(value)
    if name == "org_id" and value == "":
        return None
    return value

"""The region table, read from data and checked as a whole."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

MAX_REGIONS = 200
_CODE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_COUNTRY = re.compile(r"[A-Z]{2}", re.ASCII)
_MULTIPLIER = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?", re.ASCII)


class RegionError(ValueError):
    """A region table that cannot be used; says what to change."""


@dataclass(frozen=True, slots=True)
class Region:
    """One region."""

    code: str
    """What environments are pinned to. 1 to 63 of a-z, 0-9 and `-`."""
    name: str
    """For people."""
    aliases: tuple[str, ...]
    countries: tuple[str, ...]
    """ISO 3166-1 alpha-2."""
    clouds: Mapping[str, str]
    """The region's name at each cloud."""
    cost_multiplier: Decimal
    """More than 0, less than 1,000, at most six places."""
    node_pools: tuple[str, ...]
    fallback: tuple[str, ...]
    """Codes of the regions that take a share while this one is down, first choice first."""


class _Row(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    code: str
    name: str
    aliases: list[str] = []
    countries: list[str] = []
    clouds: dict[str, str] = {}
    cost_multiplier: str = "1"
    node_pools: list[str] = []
    fallback: list[str] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    region: list[_Row]


class RegionTable:
    """All regions."""

    def __init__(self, regions: Sequence[Region]) -> None:
        """Raises RegionError when names, countries or fallbacks contradict each other."""
        self.regions = MappingProxyType({region.code: region for region in regions})
        """By code, in the table's order."""
        if not 0 < len(regions) <= MAX_REGIONS or len(self.regions) < len(regions):
            raise RegionError(f"there must be 1 to {MAX_REGIONS} regions, each code once")
        self._codes: dict[str, str] = {code: code for code in self.regions}
        self._countries: dict[str, Region] = {}
        for region in regions:
            self._add(region)

    def _add(self, region: Region) -> None:
        for other in (*region.aliases, *region.clouds.values()):
            if self._codes.setdefault(other, region.code) != region.code:
                raise RegionError(f"`{other}` names both `{self._codes[other]}` and `{region.code}`")
        for country in region.countries:
            if self._countries.setdefault(country, region) is not region:
                raise RegionError(f"country {country} is in both `{self._countries[country].code}` and `{region.code}`")
        if region.code in region.fallback or len(set(region.fallback)) < len(region.fallback):
            raise RegionError(f"the fallback of `{region.code}` names itself, or a region twice")
        for code in region.fallback:
            if code not in self.regions:
                raise RegionError(f"the fallback of `{region.code}` names `{code}`, which is no region's code")

    @property
    def codes(self) -> Mapping[str, str]:
        """Every name of every region with its code."""
        return self._codes

    def code(self, name: str) -> str:
        """The code of the region that `name` means: a code, an alias or a cloud's name. Unknown names stay as they are.

        A fleet may have regions of its own that no table knows, such as a customer's site.
        """
        return self._codes.get(name, name)

    def get(self, name: str) -> Region | None:
        """The region that `name` means."""
        return self.regions.get(self.code(name))

    def for_country(self, country: str) -> Region | None:
        """Where customers of a country are pinned by default. `country` is ISO 3166-1 alpha-2, in capitals."""
        return self._countries.get(country)

    @staticmethod
    def parse(text: str) -> "RegionTable":
        """Reads a table in TOML, as in default.toml. Raises RegionError."""
        try:
            rows = msgspec.convert(tomllib.loads(text), _File).region
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise RegionError(f"is no region table: {error}") from None
        return RegionTable([_region(row) for row in rows])


def _region(row: _Row) -> Region:
    for name in (row.code, *row.aliases, *row.clouds.values()):
        if not _CODE.fullmatch(name):
            raise RegionError(f"`{name[:80]}` of `{row.code[:80]}` must be 1 to 63 of a-z, 0-9 and `-`")
    for country in row.countries:
        if not _COUNTRY.fullmatch(country):
            raise RegionError(f"`{country[:80]}` of `{row.code}` must be a country's two capital letters")
    multiplier = Decimal(row.cost_multiplier) if _MULTIPLIER.fullmatch(row.cost_multiplier) else Decimal(0)
    if multiplier <= 0:
        raise RegionError(f"the cost multiplier of `{row.code}` must be a decimal above 0 with at most six places")
    fields: dict[str, Any] = {
        name: tuple(getattr(row, name)) for name in ("aliases", "countries", "node_pools", "fallback")
    }
    return Region(
        code=row.code, name=row.name, clouds=MappingProxyType(dict(row.clouds)), cost_multiplier=multiplier, **fields
    )


def default_regions() -> RegionTable:
    """The table that holds where no file says otherwise."""
    return RegionTable.parse(files("crosslogic_common.regions").joinpath("default.toml").read_text(encoding="utf-8"))


def regions_file(text: str) -> RegionTable:
    """A setting's value: the path of a table, or nothing for the default. Raises ValueError."""
    if not text:
        return default_regions()
    try:
        return RegionTable.parse(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {text!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"names a file that is not UTF-8 text: {text!r}") from None

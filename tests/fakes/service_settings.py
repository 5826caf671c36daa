"""The settings class of a package, and the variables that it reads."""

import importlib
import re

from crosslogic_common.settings import Settings, describe


def settings_of(package: str) -> type[Settings]:
    """The one settings class of `crosslogic_<package>`."""
    module = importlib.import_module(f"crosslogic_{package}.settings")
    (found,) = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Settings) and each.__module__ == module.__name__
    ]
    return found


def variables_of(package: str) -> set[str]:
    """Every environment variable that it reads, with the `_FILE` of each secret."""
    return set(re.findall(r"`([A-Z0-9_]+)`", "\n".join(row.split("|")[1] for row in _rows(package))))


def _rows(package: str) -> list[str]:
    return describe(settings_of(package)).splitlines()[2:]

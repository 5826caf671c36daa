"""Settings from the environment: declared once, checked all at once, documented from the same declaration."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar, cast

_META = "crosslogic_setting"
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_PORT = re.compile(r"[0-9]{1,5}")
_LARGEST_PORT = 65535
Value = TypeVar("Value")
Word = TypeVar("Word", bound=StrEnum)


class SettingsError(Exception):
    """Every problem with the environment, one a line, each saying what to change."""


class Secret:
    """A value that shows itself only when asked to."""

    __slots__ = ("_value", "file")

    def __init__(self, value: str, file: Path | None = None) -> None:
        """`file` is where it was read from, for what follows it when another is put there. None: from nowhere."""
        self._value = value
        self.file = file

    def reveal(self) -> str:
        """The value."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(***)" if self._value else "Secret()"

    __str__ = __repr__


@dataclasses.dataclass(frozen=True, slots=True)
class _Setting:
    env: str
    doc: str
    parse: Callable[[str], Any]
    default: str | None
    secret: bool


def _text(text: str) -> str:
    return text


def setting(
    env: str,
    *,
    doc: str,
    parse: Callable[[str], Value] = _text,  # type: ignore[assignment]  # a field without `parse` is a str
    default: str | None = None,
) -> Value:
    """Declares a field read from `env`. Without a `default` (as it would be written there) it must be set.

    `parse` raises ValueError with the end of a sentence that begins with the variable's name. `doc` is its line in the
    README's table, where a problem with it is reported too.
    """
    return cast("Value", dataclasses.field(metadata={_META: _Setting(env, doc, parse, default, secret=False)}))


def secret_setting(env: str, *, doc: str, default: str | None = None) -> Secret:
    """Declares a secret: read from `env`, or from the file that `env`_FILE names, less the newline at its end.

    Setting both is an error, and so is an empty secret that has no default.
    """
    return cast("Secret", dataclasses.field(metadata={_META: _Setting(env, doc, Secret, default, secret=True)}))


class Settings:
    """Base of a service's settings: a frozen, keyword-only dataclass whose fields are made by `setting`."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Reads and checks everything. Raises SettingsError that lists all problems at once."""
        problems: list[str] = []
        values: dict[str, Any] = {}
        for name, declared in _declared(cls):
            try:
                values[name] = declared.parse(_raw(declared, environ))
                if declared.secret and (file := environ.get(f"{declared.env}_FILE")):
                    values[name] = Secret(values[name].reveal(), Path(file))
            except ValueError as error:
                problems.append(f"{declared.env} {error} ({declared.doc})")
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(**values)


def describe(cls: type[Settings]) -> str:
    """The settings as a Markdown table."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for _, declared in _declared(cls):
        name = f"`{declared.env}` or `{declared.env}_FILE`" if declared.secret else f"`{declared.env}`"
        default = "required" if declared.default is None else f"`{declared.default}`" if declared.default else "empty"
        rows.append(f"| {name} | {default} | {declared.doc.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def _declared(cls: type[Settings]) -> list[tuple[str, _Setting]]:
    return [(field.name, field.metadata[_META]) for field in dataclasses.fields(cls)]  # type: ignore[arg-type]


def _raw(declared: _Setting, environ: Mapping[str, str]) -> str:
    value = environ.get(declared.env)
    if declared.secret:
        file = environ.get(declared.env + "_FILE")
        if file and value:
            raise ValueError(f"and {declared.env}_FILE are both set: keep one")
        if file:
            value = _secret_file(declared.env, Path(file))
    if value is None:
        value = declared.default
    if value is None:
        raise ValueError("is not set")
    if not value and declared.default is None:
        raise ValueError("is empty")
    return value


def _secret_file(env: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"cannot be read: {env}_FILE names {str(file)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        # Its text would quote the secret's bytes.
        raise ValueError(f"cannot be read: the file that {env}_FILE names is not UTF-8 text") from None


def boolean(text: str) -> bool:
    """1/0, true/false, yes/no, on/off."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError(f"must be 1 or 0, not {text!r}")


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        value = int(text) if _WHOLE.fullmatch(text) else None
        if value is None or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {text!r}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """A number from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"must be a number from {low} to {high}, not {text!r}")
        return value

    return parse


def address(text: str) -> str:
    """host:port, a port of 0 to 65535; an IPv6 host in brackets."""
    host, _, port = text.rpartition(":")
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or bare_ipv6 or text != text.strip() or not _PORT.fullmatch(port) or int(port) > _LARGEST_PORT:
        raise ValueError(f"must be host:port, not {text!r}")
    return text


def optional_address(text: str) -> str:
    """host:port or nothing."""
    return address(text) if text else ""


def existing_file(text: str) -> Path:
    """The path of a file that is there."""
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"must name a file: there is none at {text!r}")
    return path


def one_of(*choices: str) -> Callable[[str], str]:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {text!r}")
        return text

    return parse


def member_of(kind: type[Word]) -> Callable[[str], Word]:
    """One of an enumeration's words."""
    parse = one_of(*kind)
    return lambda text: kind(parse(text))


def words(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def json_strings(text: str) -> tuple[str, ...]:
    """A JSON array of strings, or nothing."""
    if not text:
        return ()
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"must be a JSON array of strings: {error}") from None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a JSON array of strings")
    return tuple(value)

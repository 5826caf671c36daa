"""Settings from the environment: declared once, checked all at once, documented from the same declaration."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, cast

_META = "crosslogic_setting"
Value = TypeVar("Value")


class SettingsError(Exception):
    """Every problem with the environment, one a line, each saying what to change."""


class Secret:
    """A value that shows itself only when asked to."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

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


def setting(
    env: str, *, doc: str, parse: Callable[[str], Value] = cast("Any", str), default: str | None = None
) -> Value:
    """Declares a field read from `env`. Without a `default` (as it would be written there) it must be set."""
    return cast("Value", dataclasses.field(metadata={_META: _Setting(env, doc, parse, default, secret=False)}))


def secret_setting(env: str, *, doc: str, default: str | None = None) -> Secret:
    """Declares a secret: read from `env`, or from the file that `env`_FILE names."""
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
            except (ValueError, OSError) as error:
                problems.append(f"{declared.env}: {error} ({declared.doc})")
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(**values)


def describe(cls: type[Settings]) -> str:
    """The settings as a Markdown table."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for _, declared in _declared(cls):
        name = f"`{declared.env}` or `{declared.env}_FILE`" if declared.secret else f"`{declared.env}`"
        default = "required" if declared.default is None else f"`{declared.default}`" if declared.default else "empty"
        rows.append(f"| {name} | {default} | {declared.doc} |")
    return "\n".join(rows)


def _declared(cls: type[Settings]) -> list[tuple[str, _Setting]]:
    return [(field.name, field.metadata[_META]) for field in dataclasses.fields(cls)]  # type: ignore[arg-type]


def _raw(declared: _Setting, environ: Mapping[str, str]) -> str:
    value = environ.get(declared.env)
    if declared.secret:
        file = environ.get(declared.env + "_FILE")
        if file and value:
            raise ValueError(f"set it or {declared.env}_FILE, not both")
        if file:
            return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    if value is not None:
        return value
    if declared.default is None:
        raise ValueError("is not set")
    return declared.default


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
        value = int(text) if text.lstrip("-").isdigit() else None
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
    """host:port, a port of 0 to 65535."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004  # the largest port
        raise ValueError(f"must be host:port, not {text!r}")
    return text


def optional_address(text: str) -> str:
    """host:port or nothing."""
    return address(text) if text else ""


def existing_file(text: str) -> Path:
    """The path of a file that is there."""
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"there is no file {text!r}")
    return path


def one_of(*choices: str) -> Callable[[str], str]:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {text!r}")
        return text

    return parse


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

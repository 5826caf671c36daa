"""Where the gateway is and who asks: options, then the environment, then the configuration file."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crosslogic_cli.failure import CliError, ExitCode

_KNOWN = frozenset({"base_url", "admin_token", "admin_token_file", "api_key", "api_key_file"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What every command needs."""

    base_url: str
    admin_token: str = field(repr=False)
    api_key: str = field(repr=False)
    as_json: bool
    """Print JSON for scripts instead of tables for people."""
    assume_yes: bool
    """Ask nobody before something is destroyed."""


def config_file(environ: Mapping[str, str]) -> Path:
    """The file's place: CROSSLOGIC_CONFIG, else `crosslogic/config.toml` in the user's configuration folder."""
    named = environ.get("CROSSLOGIC_CONFIG")
    if named:
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".config")
    return Path(home) / "crosslogic" / "config.toml"


def read_config(environ: Mapping[str, str], *, base_url: str | None, as_json: bool, assume_yes: bool) -> Config:
    """The configuration. Raises CliError for a file that cannot be read."""
    stored = _stored(config_file(environ))
    return Config(
        base_url=(
            base_url or environ.get("CROSSLOGIC_BASE_URL") or stored.get("base_url") or "http://127.0.0.1:8080"
        ).rstrip("/"),
        admin_token=_secret("admin_token", environ.get("CROSSLOGIC_ADMIN_TOKEN"), stored),
        api_key=_secret("api_key", environ.get("CROSSLOGIC_API_KEY"), stored),
        as_json=as_json,
        assume_yes=assume_yes,
    )


def _secret(name: str, given: str | None, stored: Mapping[str, str]) -> str:
    if given:
        return given
    if stored.get(f"{name}_file"):
        file = Path(stored[f"{name}_file"]).expanduser()
        try:
            return file.read_text().strip()
        except OSError as error:
            raise CliError(f"{name}_file: {file}: {error.strerror}", ExitCode.USAGE) from None
    return stored.get(name, "")


def _stored(file: Path) -> dict[str, str]:
    try:
        found = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CliError(f"{file} cannot be read: {error}", ExitCode.USAGE) from None
    unknown = sorted(found.keys() - _KNOWN)
    if unknown:
        raise CliError(
            f"{file} has unknown settings: {', '.join(unknown)}. Known are {', '.join(sorted(_KNOWN))}.",
            ExitCode.USAGE,
        )
    if any(name in found for name in ("admin_token", "api_key")) and file.stat().st_mode & 0o077:
        raise CliError(f"{file} holds a secret and others may read it: chmod 600 {file}", ExitCode.USAGE)
    return {name: str(value) for name, value in found.items()}

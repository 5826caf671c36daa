"""What commands share: the configuration, a client, and a question before something is destroyed."""

import sys
from typing import cast

import typer

from crosslogic_cli.client import Client
from crosslogic_cli.config import Config
from crosslogic_cli.failure import CliError, ExitCode


def config_of(context: typer.Context) -> Config:
    """The configuration that the root command made."""
    return cast("Config", context.find_root().obj)


def client_of(context: typer.Context) -> Client:
    """A client for the configured gateway."""
    return Client(config_of(context))


def confirm(context: typer.Context, what: str) -> None:
    """Asks before something is destroyed. Raises CliError when nobody can be asked, or says no."""
    if config_of(context).assume_yes:
        return
    if not sys.stdin.isatty():
        raise CliError(f"{what} Nobody is there to be asked: repeat with `crosslogic --yes ...`.", ExitCode.USAGE)
    if not typer.confirm(f"{what} Go on?"):
        raise CliError("Nothing was done.")


def group(name: str, summary: str) -> typer.Typer:
    """A group of commands that shows its help when it is called alone."""
    return typer.Typer(name=name, help=summary, no_args_is_help=True, rich_markup_mode="markdown")

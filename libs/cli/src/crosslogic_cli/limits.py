"""Limits as options: `--limit requests_per_minute=500 --limit tokens_per_day=none`."""

from collections.abc import Sequence

from crosslogic_cli.failure import CliError, ExitCode

NAMES = (
    "requests_per_second",
    "requests_per_minute",
    "tokens_per_second",
    "tokens_per_minute",
    "tokens_per_hour",
    "tokens_per_day",
    "concurrency",
)


def parsed_limits(given: Sequence[str]) -> dict[str, int | None]:
    """The `limits` object. Raises CliError for what is no limit."""
    found: dict[str, int | None] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if name not in NAMES or not equals or not (value.isdigit() or value == "none"):
            raise CliError(
                f"--limit {each}: write NAME=NUMBER or NAME=none, where NAME is one of {', '.join(NAMES)}.",
                ExitCode.USAGE,
            )
        found[name] = None if value == "none" else int(value)
    return found

"""What a check of a deployment says."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["well", "worth a look", "broken", "not checked"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result."""

    check: str
    verdict: Verdict
    what: str
    fix: str = ""
    """What to do. Empty where there is nothing to do."""


def well(check: str, what: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "well", what)


def broken(check: str, what: str, fix: str) -> Finding:
    """Something does not work."""
    return Finding(check, "broken", what, fix)


def doubtful(check: str, what: str, fix: str) -> Finding:
    """It works, and will not for long, or not well."""
    return Finding(check, "worth a look", what, fix)


def unchecked(check: str, what: str) -> Finding:
    """What is missing to check it."""
    return Finding(check, "not checked", what)

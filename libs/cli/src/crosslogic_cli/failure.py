"""How commands fail: one line, and an exit code that a script can tell apart."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process ends with."""

    FAILED = 1
    """The gateway refused it, or it did not succeed."""
    USAGE = 2
    """The command line or the configuration is wrong."""
    UNREACHABLE = 3
    """The gateway cannot be reached, or is not ready."""
    NOT_ALLOWED = 4
    """The token or the key does not let you."""
    NOT_FOUND = 5
    """There is no such thing."""


class CliError(Exception):
    """The command fails; the message is for people."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code

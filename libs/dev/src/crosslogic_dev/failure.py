"""What ends a development command with one clear line instead of a stack trace."""


class DevError(Exception):
    """The message is one line that says what is wrong and what to do about it."""

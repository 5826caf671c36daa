"""What an endpoint knows this relay by, and how it is told so."""

import re
from enum import StrEnum
from pathlib import Path

from crosslogic_common.logs import get_logger
from crosslogic_common.settings import Secret

_KEY = re.compile(r"[\x21-\x7e]*", re.ASCII)


class KeyHeader(StrEnum):
    """Where a key goes."""

    AUTHORIZATION = "authorization"
    """`Authorization: Bearer ...`, as OpenAI has it."""
    API_KEY = "api-key"
    """`api-key: ...`, as Azure has it."""
    X_API_KEY = "x-api-key"
    """`x-api-key: ...`, as gateways of companies often have it."""


def sound_key(key: Secret) -> bool:
    """Whether a credential can go into a header: visible ASCII and nothing else."""
    return bool(_KEY.fullmatch(key.reveal()))


class Credential:
    """A key, which is another one once another is in its file."""

    def __init__(self, secret: Secret, *, header: KeyHeader = KeyHeader.AUTHORIZATION) -> None:
        """The file is the secret's; one that was read from none stays what it is."""
        self._secret = secret
        self._header = header
        self._log = get_logger(__name__)

    def reveal(self) -> str:
        """The key. Empty: there is none."""
        return self._secret.reveal()

    @property
    def header_line(self) -> str:
        """The line of a request's head, with its end. Empty: there is no key."""
        if not self._secret:
            return ""
        if self._header is KeyHeader.AUTHORIZATION:
            return f"Authorization: Bearer {self._secret.reveal()}\r\n"
        return f"{self._header}: {self._secret.reveal()}\r\n"

    def refresh(self) -> bool:
        """Reads the file again; whether there is another key in it. What cannot be one is left there. For a thread."""
        file = self._secret.file
        found = _read(file) if file is not None else None
        if found is None or found.reveal() == self._secret.reveal():
            return False
        if not found or not sound_key(found):
            self._log.warning("the endpoint's new key is no key: the one before is kept", file=str(file))
            return False
        self._secret = found
        self._log.info("the endpoint's key is a new one")
        return True


def _read(file: Path) -> Secret | None:
    try:
        return Secret(file.read_text(encoding="utf-8").rstrip("\r\n"), file)
    except (OSError, UnicodeDecodeError):
        # While it is being replaced; its text is in no error.
        return None

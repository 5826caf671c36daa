"""Where a route's target leads, as far as its text says."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from crosslogic_orchestrator.notify.domain import Channel

MAX_URL_CHARS = 2_048
_MAX_MAIL_CHARS = 254
_HTTPS_PORT = 443
_HTTP_PORT = 80
# What mail servers deliver to and no header can be broken with; quoted local parts are nobody's.
_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,187}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an URL leads."""

    scheme: str
    host: str
    """As it is resolved, certified and told to the server; without brackets."""
    port: int
    path: str
    """With the query."""

    @property
    def authority(self) -> str:
        """For the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        own_port = _HTTPS_PORT if self.scheme == "https" else _HTTP_PORT
        return host if self.port == own_port else f"{host}:{self.port}"


def read_url(url: str, *, operators: bool) -> Endpoint:
    """Where an URL leads. Raises ValueError with the end of a sentence about it.

    `operators`: an operator's, which may be plain HTTP and have any port; anybody else's is HTTPS at its own port.
    """
    if len(url) > MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError(f"must be an URL of at most {MAX_URL_CHARS:,} printable ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise ValueError("must be an URL that begins with https://")
    if "@" in parts.netloc:
        raise ValueError("must hold no user and no password")
    if "%" in parts.hostname:
        raise ValueError("must name a host without a zone")
    if port is None:
        port = _HTTPS_PORT if parts.scheme == "https" else _HTTP_PORT
    if not operators and (parts.scheme != "https" or port != _HTTPS_PORT):
        raise ValueError("must be an URL that begins with https://, at port 443")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(parts.scheme, parts.hostname, port, path)


def shown(channel: Channel, target: str, *, operators: bool) -> str:
    """What may be shown of a target: the rest of an URL is as good as a password. Raises ValueError as `read_url`."""
    if channel == "email":
        if not _MAIL.fullmatch(target) or len(target) > _MAX_MAIL_CHARS:
            raise ValueError("must be an address of mail")
        return target
    return read_url(target, operators=operators).authority

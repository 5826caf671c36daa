"""What the operator says of an endpoint of somebody else's."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import urlsplit

from crosslogic_common.settings import Secret
from crosslogic_node_agent.external.credential import Credential

_HOST = re.compile(r"[a-z0-9._-]{1,253}", re.ASCII)
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
_WRONG = "must be https://host/path or http://host/path, with no user, key or query in it"


@dataclass(frozen=True, slots=True)
class EndpointUrl:
    """Where an endpoint is."""

    tls: bool
    host: str
    port: int
    base_path: str
    """Comes before `/chat/completions`; often `/v1`."""

    @classmethod
    def parse(cls, text: str) -> "EndpointUrl":
        """Reads a base address as OpenAI's clients take it. Raises ValueError, which does not quote it."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError(_WRONG) from None
        host = parts.hostname or ""
        path = parts.path.rstrip("/")
        named = _HOST.fullmatch(host) or _is_ipv6(host)
        # What parses URLs leaves line ends out unseen.
        sound = text.isprintable() and parts.scheme in ("http", "https") and named and _PATH.fullmatch(path)
        if not sound or "@" in parts.netloc or parts.query or parts.fragment or port == 0:
            raise ValueError(_WRONG)
        tls = parts.scheme == "https"
        return cls(tls, host, port or (443 if tls else 80), path)

    @property
    def authority(self) -> str:
        """As the `Host` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def endpoint_url(text: str) -> EndpointUrl | None:
    """An endpoint's base address, or nothing. Raises ValueError."""
    return EndpointUrl.parse(text) if text else None


class StreamUsage(StrEnum):
    """What an endpoint is asked to count in a stream."""

    FINAL = "final"
    """`stream_options.include_usage`, as OpenAI has it."""
    CONTINUOUS = "continuous"
    """With each chunk too, as vLLM can."""
    OFF = "off"
    """Nothing: it refuses `stream_options`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalTerms:
    """How an endpoint is spoken to."""

    url: EndpointUrl
    model: str
    """Its own name of the model."""
    key: Credential = field(default_factory=lambda: Credential(Secret("")))
    """Goes with each request."""
    usage: StreamUsage = StreamUsage.FINAL
    limit_field: str = "max_tokens"
    """What it calls the limit of a chat's answer."""
    more_fields: frozenset[str] = frozenset()
    """Fields of requests that it takes beyond OpenAI's."""


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6 and "%" not in host  # noqa: PLR2004  # IPv6
    except ValueError:
        return False

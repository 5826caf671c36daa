"""The words of the gateway."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is served for."""

    org_id: str
    environment_id: str
    api_key_id: str
    region: str
    """Where its requests run. Empty: anywhere."""
    allowed_models: frozenset[str] | None
    """Catalogue names. None: every model."""
    cache_salt: str
    expires_at: datetime | None
    """When the key stops working by itself."""

    def may_use(self, model: str) -> bool:
        """Whether requests for the model are allowed at all."""
        return self.allowed_models is None or model in self.allowed_models


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the catalogue, as far as a request needs it."""

    name: str
    family: str
    context_length: int
    """Tokens that prompt and answer may have together."""
    prompt_price_picodollars: int
    completion_price_picodollars: int
    regions: frozenset[str]
    """Regions in which it is offered. Empty: all."""
    created_unix_s: int


@dataclass(frozen=True, slots=True)
class Route:
    """A node that takes a request."""

    node_id: str
    address: str
    region: str

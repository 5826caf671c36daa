"""The words of identity."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Status = Literal["active", "suspended", "revoked"]
Kind = Literal["live", "test"]
Scope = Literal["org", "environment", "api_key"]


@dataclass(frozen=True, slots=True)
class Org:
    """An organisation: a tenant."""

    id: str
    name: str
    status: Status
    cache_salt: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Environment:
    """A tenant's environment."""

    id: str
    org_id: str
    name: str
    status: Status
    region: str
    allowed_models: tuple[str, ...]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its secret."""

    id: str
    org_id: str
    environment_id: str
    name: str
    kind: Kind
    status: Status
    hint: str
    allowed_models: tuple[str, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Everything that decides whether and for whom a key works."""

    key: ApiKey
    environment: Environment
    org: Org


@dataclass(frozen=True, slots=True)
class Changes:
    """What an update sets; None leaves a field as it is."""

    name: str | None = None
    status: Status | None = None
    region: str | None = None
    allowed_models: tuple[str, ...] | None = None

    @property
    def touch_requests(self) -> bool:
        """Whether they could change what a request may do: a name is for people only."""
        return self.status is not None or self.region is not None or self.allowed_models is not None


@dataclass(frozen=True, slots=True)
class Revocation:
    """What every gateway must forget."""

    scope: Scope
    id: str

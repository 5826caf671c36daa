"""The words of the model store."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic_model_store.manifest import Manifest

Environment = Literal["development", "staging", "production"]

ENVIRONMENT_TO_PB: Mapping[Environment, "pb.ModelEnvironment.ValueType"] = MappingProxyType(
    {
        "development": pb.MODEL_ENVIRONMENT_DEVELOPMENT,
        "staging": pb.MODEL_ENVIRONMENT_STAGING,
        "production": pb.MODEL_ENVIRONMENT_PRODUCTION,
    }
)
ENVIRONMENT_FROM_PB: Mapping[int, Environment] = MappingProxyType(
    {**{value: name for name, value in ENVIRONMENT_TO_PB.items()}, pb.MODEL_ENVIRONMENT_UNSPECIFIED: "production"}
)


@dataclass(frozen=True, slots=True)
class Version:
    """A version that the registry was told of."""

    number: int
    """Grows with time. More than 0."""
    manifest: Manifest
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A model in an environment."""

    name: str
    """As clients name it."""
    model: str
    environment: Environment
    version: str
    """Empty: machines bring their own weights."""
    enabled: bool
    endpoint: str
    changed_at: datetime
    licence: str = ""
    """Of the version."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a model is promoted to."""

    name: str
    """As clients name it there."""
    environment: Environment
    before: Registration | None
    """What was there when the gates were tried."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the catalogue tells of a model that follows from its version, unless an operator said otherwise."""

    context_length: int
    vram_required_bytes: int


@dataclass(frozen=True, slots=True)
class Health:
    """How a registered model is, by its nodes."""

    serving_nodes: int = 0
    version_nodes: int = 0
    heard_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition of a promotion."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Smoke:
    """What a generation on a live node came to."""

    passed: bool
    detail: str

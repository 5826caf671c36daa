"""What the model store needs of the world."""

from collections.abc import Iterable
from typing import Protocol

from crosslogic.registry.v1 import registry_pb2
from crosslogic_model_store.manifest import Manifest
from crosslogic_registry.members import Member
from crosslogic_registry.model_store.domain import Environment, Registration, Smoke, Target, Version


class ModelStoreStore(Protocol):
    """Versions and registrations, kept durably. Every method raises UNAVAILABLE while the store is away."""

    async def add_version(self, manifest: Manifest) -> Version:
        """Keeps a version, or finds it."""

    async def version(self, model: str, version: str) -> Version | None:
        """One version."""

    async def versions(self, model: str, *, before: int, limit: int) -> list[Version]:
        """Newest first, numbered less than `before` (0: the newest); `model` empty: of all."""

    async def grant(self, node_id: str, model: str, version: str) -> None:
        """Lets a node read a version."""

    async def granted(self, node_id: str) -> Version | None:
        """What a node may read."""

    async def register(
        self, entry: registry_pb2.Model, *, model: str, environment: Environment, version: str, endpoint: str
    ) -> Registration:
        """Puts a model into an environment, with its catalogue entry, or neither."""

    async def promote(self, source: Registration, target: Target, *, request_id: str) -> Registration:
        """Brings what `source` has to `target`, or changes nothing.

        Raises CONFLICT where either is not what it was: somebody has promoted, gone back or taken out meanwhile.
        """

    async def carried_out(self, request_id: str) -> str | None:
        """The model that was promoted to, or went back, under this id. None: nothing was done under it."""

    async def registration(self, name: str) -> Registration | None:
        """A registered model."""

    async def registrations(self, after: str, limit: int) -> list[Registration]:
        """Registered models by name, after a name."""

    async def entry(self, name: str) -> registry_pb2.Model | None:
        """The catalogue entry, offered or not."""

    async def deregister(self, name: str) -> bool:
        """Takes a model out. False: it is not there."""

    async def enable(self, name: str, *, enabled: bool) -> Registration | None:
        """Offers it or no longer. None: it is not there."""

    async def roll_back(self, name: str, *, request_id: str) -> Registration:
        """Brings back the version before, once under an id. Raises NOT_FOUND, CONFLICT."""


class Nodes(Protocol):
    """The fleet, as far as models need it."""

    def members(self) -> Iterable[Member]:
        """All nodes."""


class SmokeTest(Protocol):
    """Asks a node for a few tokens."""

    async def generate(self, node: registry_pb2.Node, model: str) -> Smoke:
        """What came of it; never raises but for a cancel."""

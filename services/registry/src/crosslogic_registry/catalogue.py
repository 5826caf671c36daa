"""The catalogue of models, pushed to its watchers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_common.postgres import notifications
from crosslogic_registry import policy
from crosslogic_registry.ports import ModelStore
from crosslogic_registry.store import CATALOGUE_CHANNEL

_PATIENCE_S = 1.0
"""For the database, where a copy in memory would do."""
REFRESH_S = 120.0
"""How old the copy may become if a notice of a change was lost."""


class Catalogue:
    """The models on offer. A copy in memory serves watchers while the database is away."""

    def __init__(self, *, store: ModelStore, dsn: str) -> None:
        self._store = store
        self._dsn = dsn
        self._models: list[pb.Model] | None = None
        self._changed = asyncio.Condition()
        self._log = get_logger(__name__)
        self.version = 0
        """Counts changes; 0: not read yet."""

    async def add(self, model: pb.Model) -> pb.Model:
        """Adds a model."""
        return await self._store.add_model(policy.check_model(model))

    async def replace_deployments(self, name: str, deployments: Sequence[pb.Deployment]) -> pb.Model:
        """Says how a model is served. Raises NOT_FOUND and INVALID_ARGUMENT."""
        return await self._store.replace_deployments(name, policy.check_deployments(deployments))

    async def page(self, after: str, limit: int) -> list[pb.Model]:
        """Models by name, after a name; as last known while the database is away or slow."""
        if self._models is None:
            return await self._store.models(after, limit)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._store.models(after, limit)
        except TimeoutError:
            pass
        except CodedError as error:
            if error.code != ErrorCode.UNAVAILABLE:
                raise
        return [model for model in self._models if model.name > after][:limit]

    async def next(self, seen_version: int) -> tuple[int, list[pb.Model]]:
        """The whole catalogue, once it is newer than `seen_version`."""
        async with self._changed:
            while self._models is None or self.version == seen_version:
                await self._changed.wait()
            return self.version, self._models

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follows changes of every replica for as long as the block lasts."""
        tasks = [
            asyncio.create_task(self._follow(), name="catalogue"),
            asyncio.create_task(self._refresh(), name="catalogue's refresh"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        async for _ in notifications(self._dsn, schema="registry", channel=CATALOGUE_CHANNEL):
            backoff = Backoff(cap_s=2.0)
            reloaded = await self.reload()
            while not reloaded:
                await asyncio.sleep(backoff.next_s())
                reloaded = await self.reload()

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.reload()

    async def reload(self) -> bool:
        """Reads the catalogue and tells watchers of what changed. False: the database is away."""
        try:
            models = await self._store.models()
        except CodedError as error:
            self._log.warning("catalogue not read, trying again", reason=error.private or error.public)
            return False
        async with self._changed:
            if models == self._models:
                return True
            self._models = models
            self.version += 1
            self._changed.notify_all()
        return True

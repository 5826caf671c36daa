"""What callers ask of deployments."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.paging import bad_token, page_limit, unwrap, wrap
from crosslogic_orchestrator.scaling.domain import Deployment, Plan, Snapshot
from crosslogic_orchestrator.scaling.looking import DEFAULT_START_S
from crosslogic_orchestrator.scaling.loop import Autoscaler
from crosslogic_orchestrator.scaling.records import NO_ATTEMPTS, DecisionRow, EventRow, Kept
from crosslogic_orchestrator.scaling.store import ScalingStore

MAX_NODES = 1_000
MAX_TEXT = 200
_WAITING_S = 5.0
_MAX_DIGITS = 18
_LIMITS: tuple[tuple[str, float, float], ...] = (
    ("min_nodes", 0, MAX_NODES),
    ("max_nodes", 1, MAX_NODES),
    ("spot_share", 0, 1),
    ("on_demand_floor", 0, MAX_NODES),
    ("warm_spares", 0, MAX_NODES),
    ("max_spend_picodollars", 0, 10**18),
    ("slo_first_token_ms", 1, 600_000),
    ("target_utilisation", 0.05, 1),
    ("scale_up_cooldown_s", 0, 3_600),
    ("scale_down_cooldown_s", 5, 86_400),
    ("cold_start_wait_s", 0, 600),
    ("cold_start_queue", 0, 10_000),
)
_MOST = {"providers": 50, "regions": 200, "instance_types": 200}


class Models(Protocol):
    """The catalogue."""

    async def has_model(self, name: str) -> bool:
        """Whether it has the model."""


@dataclass(frozen=True, slots=True)
class Hold:
    """How long requests may wait for a model that no node serves."""

    max_wait_s: float
    """0: not at all."""
    max_waiting: int
    expected_start_s: float


class Deployments:
    """Takes requests; the autoscaler carries them out."""

    def __init__(
        self,
        *,
        store: ScalingStore,
        autoscaler: Autoscaler,
        models: Models,
        clock: Clock,
        ids: Uuid7Source,
        wake: asyncio.Event,
    ) -> None:
        """`wake` is set when there is something to decide at once."""
        self._store = store
        self._autoscaler = autoscaler
        self._models = models
        self._clock = clock
        self._ids = ids
        self._wake = wake

    async def create(self, asked: Deployment) -> Kept:
        """Keeps a deployment. Raises INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS."""
        _check(asked)
        if not await self._models.has_model(asked.model):
            raise CodedError(ErrorCode.NOT_FOUND, f"The catalogue has no model {asked.model}.", param="model")
        kept = await self._store.create(replace(asked, id=self._ids.next_text()), now=self._clock.now())
        self._wake.set()
        return kept

    async def all(self) -> list[tuple[Kept, DecisionRow | None]]:
        """Every deployment, oldest first, with its newest decision."""
        kept, newest = await self._store.deployments(), await self._store.newest_decisions()
        return [(each, newest.get(each.deployment.id)) for each in kept]

    async def update(self, deployment_id: str, asked: Deployment, *, revision: int) -> Kept:
        """Replaces what is asked for. Raises NOT_FOUND, INVALID_ARGUMENT, CONFLICT."""
        known = (await self._store.deployment(deployment_id)).deployment
        asked = replace(asked, id=known.id, model=known.model, region=known.region)
        _check(asked)
        kept = await self._store.update(asked, revision=revision, now=self._clock.now())
        self._wake.set()
        return kept

    async def end(self, deployment_id: str) -> None:
        """Ends a deployment and its machines. Raises NOT_FOUND."""
        await self._store.end(deployment_id, now=self._clock.now())

    async def plan(self, deployment_id: str, asked: Deployment | None) -> tuple[Snapshot, Plan]:
        """What would be done now. Raises NOT_FOUND, INVALID_ARGUMENT, UNAVAILABLE."""
        kept = await self._store.deployment(deployment_id)
        if asked is not None:
            known = kept.deployment
            asked = replace(asked, id=known.id, model=known.model, region=known.region)
            _check(asked)
        return self._autoscaler.plan(kept, await self._store.world(now=self._clock.now()), asked=asked)

    async def decisions(self, deployment_id: str, *, page_size: int, page_token: str) -> tuple[list[DecisionRow], str]:
        """A page, newest first, and the next page's token. Raises NOT_FOUND, INVALID_ARGUMENT."""
        limit, before = page_limit(page_size), 0
        if page_token:
            text = unwrap(page_token)
            if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
                raise bad_token()
            before = int(text)
        rows = await self._store.decisions(deployment_id, before=before, limit=limit + 1)
        return rows[:limit], wrap(str(rows[limit - 1].seq)) if len(rows) > limit else ""

    async def hold(self, *, model: str, region: str, waiting: int, reporter: str) -> Hold:
        """Notes that requests wait, and says how long they may."""
        for name, value in (("model", model), ("reporter", reporter)):
            if not 1 <= len(value) <= MAX_TEXT:
                raise CodedError(
                    ErrorCode.INVALID_ARGUMENT, f"`{name}` must have 1 to {MAX_TEXT} characters.", param=name
                )
        now = self._clock.now()
        kept = await self._store.hold(
            model=model,
            region=region,
            reporter=reporter[:100],
            waiting=min(waiting, 1_000_000),
            now=now,
            until=now + timedelta(seconds=_WAITING_S),
        )
        if kept is None or kept.deployment.mode != "active":
            return Hold(0.0, 0, 0.0)
        self._wake.set()
        world = await self._store.world(now=now)
        start_s = world.attempts.get(kept.deployment.id, NO_ATTEMPTS).start_s or DEFAULT_START_S
        return Hold(kept.deployment.cold_start_wait_s, kept.deployment.cold_start_queue, start_s)

    async def events(self, *, after: int, page_size: int) -> list[EventRow]:
        """Oldest first."""
        return await self._store.events(after=min(after, 2**63 - 1), limit=page_limit(page_size))


def _check(asked: Deployment) -> None:
    """Raises INVALID_ARGUMENT."""
    if not 1 <= len(asked.model) <= MAX_TEXT:
        raise _bad("model", f"must have 1 to {MAX_TEXT} characters")
    if len(asked.region) > MAX_TEXT:
        raise _bad("region", f"must have at most {MAX_TEXT} characters")
    for name, least, most in _LIMITS:
        # What is no number is within no bounds.
        if not least <= getattr(asked, name) <= most:
            raise _bad(name, f"must be {least:,g} to {most:,g}")
    if asked.min_nodes > asked.max_nodes:
        raise _bad("min_nodes", "must not be more than `max_nodes`")
    for name, count in _MOST.items():
        words = getattr(asked.constraints, name)
        if len(words) > count or any(not 1 <= len(word) <= MAX_TEXT for word in words):
            raise _bad(f"constraints.{name}", f"must have at most {count} names of 1 to {MAX_TEXT} characters")
    if len(asked.constraints.gpu) > MAX_TEXT:
        raise _bad("constraints.gpu", f"must have at most {MAX_TEXT} characters")


def _bad(name: str, what: str) -> CodedError:
    return CodedError(ErrorCode.INVALID_ARGUMENT, f"`{name}` {what}.", param=name)

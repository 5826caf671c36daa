"""Runs model upgrades: counts what gateways see, and moves each upgrade on or back.

Every replica does: whoever holds an upgrade's row decides, by what all of them wrote, so that none of them is needed. A
replica that is killed loses what it heard in the last half second.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from functools import partial
from uuid import UUID

from crosslogic.registry.v1 import registry_pb2
from crosslogic.registry.v1 import upgrades_pb2 as pb
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_registry.members import Member
from crosslogic_registry.policy import is_name
from crosslogic_registry.upgrades import policy
from crosslogic_registry.upgrades.domain import NOTHING, Counts, Move, Outcomes, Serving, Upgrade, Wish
from crosslogic_registry.upgrades.ports import Nodes, OutcomeKey, UpgradeStore

LOOK_EVERY_S = 0.5
MAX_COUNT = 2**40
"""Of one report: gateways are ours, and still no sum may pass what the database holds."""


class Upgrades:
    """The upgrades of all models."""

    def __init__(self, *, store: UpgradeStore, nodes: Nodes, clock: Clock, heartbeat_s: float) -> None:
        """`heartbeat_s` is how often nodes tell of themselves."""
        self._store = store
        self._nodes = nodes
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._under_way: list[Upgrade] = []
        self._seen: dict[OutcomeKey, Counts] = {}
        self._served_at: dict[str, float] = {}
        """When a node of an upgrade's new version last served, on the monotonic clock."""
        self._log = get_logger(__name__)

    # What operators ask for.

    async def start(self, asked: pb.CreateModelUpgradeRequest) -> Upgrade:
        """Starts an upgrade. Raises NOT_FOUND, CONFLICT, INVALID_ARGUMENT."""
        if not _is_uuid(asked.request_id):
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`request_id` must be a UUID.", param="request_id")
        if not policy.check_version(asked.to_version, "to_version"):
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`to_version` must not be empty.", param="to_version")
        policy.check_version(asked.from_version, "from_version")
        if not is_name(asked.model):
            raise CodedError(ErrorCode.NOT_FOUND, "The catalogue has no such model.", param="model")
        wish = Wish(
            model=asked.model,
            from_version=asked.from_version if asked.HasField("from_version") else None,
            guess=self._version_serving(asked.model),
            to_version=asked.to_version,
            rules=policy.check_rules(asked.rules),
        )
        upgrade = await self._store.start(str(UUID(asked.request_id)), wish)
        self._log.info("upgrade started", upgrade_id=upgrade.id, model=upgrade.model, to_version=upgrade.to_version)
        return upgrade

    async def get(self, upgrade_id: str) -> tuple[Upgrade, Outcomes]:
        """One with what was seen at its step. Raises NOT_FOUND."""
        if not _is_uuid(upgrade_id):
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such upgrade.")
        return await self._store.get(upgrade_id)

    async def page(self, model: str, *, before: int, limit: int) -> list[tuple[Upgrade, Outcomes]]:
        """Newest first, numbered less than `before` (0: the newest)."""
        if model and not is_name(model):
            return []
        return await self._store.page(model, before=before, limit=limit)

    async def roll_back(self, upgrade_id: str, reason: str) -> tuple[Upgrade, Outcomes]:
        """Sends all traffic back to the old version. Raises NOT_FOUND, CONFLICT, INVALID_ARGUMENT."""
        if len(reason) > policy.MAX_REASON_CHARS:
            raise CodedError(
                ErrorCode.INVALID_ARGUMENT,
                f"`reason` must have at most {policy.MAX_REASON_CHARS} characters.",
                param="reason",
            )
        text = "".join(char if char.isprintable() else " " for char in reason)

        def back(upgrade: Upgrade, _seen: Outcomes) -> Move | None:
            if not policy.may_roll_back(upgrade.phase):
                raise CodedError(ErrorCode.CONFLICT, f"The upgrade is {upgrade.phase}: start one back instead.")
            if upgrade.phase == "rolled_back":
                return None
            return Move("rolled_back", upgrade.step, f"an operator asked for it{': ' if text else ''}{text}")

        if not _is_uuid(upgrade_id):
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such upgrade.")
        self._tell(await self._store.move(upgrade_id, back, wait=True))
        return await self._store.get(upgrade_id)

    # What gateways saw.

    def observed(self, seen: registry_pb2.NodeObservation) -> None:
        """A gateway worker tells of a node. Nearly free while no upgrade is under way."""
        if not self._under_way or not (seen.succeeded or seen.failed):
            return
        member = self._nodes.known(seen.node_id)
        if member is None:
            return
        for upgrade in self._under_way:
            if _concerns(upgrade, member) and _speaks(upgrade, member.node.facts.model_version):
                key = (upgrade.id, member.node.facts.model_version == upgrade.to_version)
                self._seen[key] = self._seen.get(key, NOTHING) + Counts(
                    seen.succeeded, seen.failed, seen.first_bytes, min(seen.first_byte_us_total, MAX_COUNT)
                )

    # What happens by itself.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks after upgrades for as long as the block lasts."""
        task = asyncio.create_task(self._look_forever(), name="model upgrades")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def look(self) -> None:
        """Writes what was seen and moves what is to be moved. Raises UNAVAILABLE."""
        await self._write()
        self._under_way = await self._store.under_way()
        ids = {upgrade.id for upgrade in self._under_way}
        self._served_at = {upgrade_id: at for upgrade_id, at in self._served_at.items() if upgrade_id in ids}
        for upgrade in self._under_way:
            serving = self._serving(upgrade)
            if upgrade.phase == "draining":
                await self._drain_old(upgrade)
            self._tell(await self._store.move(upgrade.id, partial(_decide, serving=serving), wait=False))

    async def _write(self) -> None:
        seen, self._seen = self._seen, {}
        if not seen:
            return
        try:
            await self._store.add_outcomes(seen)
        except BaseException:
            # At most two entries an upgrade: it is kept however long the database is away.
            for key, counts in seen.items():
                self._seen[key] = self._seen.get(key, NOTHING) + counts
            raise

    async def _drain_old(self, upgrade: Upgrade) -> None:
        for member in list(self._of_version(upgrade, upgrade.from_version)):
            if _is_undrained(member):
                self._log.info("old version drained", upgrade_id=upgrade.id, node_id=member.node.id)
                await self._nodes.drain(member.node.id)

    def _serving(self, upgrade: Upgrade) -> Serving:
        new = sum(_serves(member) for member in self._of_version(upgrade, upgrade.to_version))
        old = list(self._of_version(upgrade, upgrade.from_version))
        now = self._clock.monotonic()
        if new or upgrade.id not in self._served_at:
            # A replica that has just started has not heard of any node yet.
            self._served_at[upgrade.id] = now
        return Serving(
            new_nodes=new,
            old_nodes=sum(_serves(member) for member in old),
            old_undrained=sum(_is_undrained(member) for member in old),
            old_requests=sum(
                member.node.load.running + member.node.load.waiting for member in old if member.status != "dead"
            ),
            heartbeat_s=self._heartbeat_s,
            lost_s=now - self._served_at[upgrade.id],
        )

    def _of_version(self, upgrade: Upgrade, version: str) -> Iterable[Member]:
        return (
            member
            for member in self._nodes.members()
            if member.node.facts.model_version == version and _concerns(upgrade, member)
        )

    def _version_serving(self, model: str) -> str | None:
        """The version that all nodes name which serve the model; None: they do not agree, or none serves."""
        found = {
            member.node.facts.model_version
            for member in self._nodes.members()
            if _serves(member) and not member.node.org_id and model in member.node.facts.models
        }
        return found.pop() if len(found) == 1 else None

    def _tell(self, moved: Upgrade | None) -> None:
        if moved is not None:
            self._log.info(
                "upgrade moved",
                upgrade_id=moved.id,
                model=moved.model,
                phase=moved.phase,
                percent=policy.percent(moved),
                reason=moved.reason,
            )

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except CodedError as error:
                self._log.warning("upgrades not looked after, trying again", reason=error.private or error.public)
            except Exception:  # noqa: BLE001  # logged; upgrades must not stop for good
                self._log.exception("upgrades not looked after, trying again")


def _decide(upgrade: Upgrade, seen: Outcomes, *, serving: Serving) -> Move | None:
    return policy.decide(upgrade, seen, serving)


def _concerns(upgrade: Upgrade, member: Member) -> bool:
    """Whether the node is one of those that an upgrade shifts traffic between: an organisation's own ones are not."""
    return not member.node.org_id and upgrade.model in member.node.facts.models


def _speaks(upgrade: Upgrade, version: str) -> bool:
    """Whether what a version did speaks for or against the new one.

    What the new version did while it had to wait does: it has been let serve since this replica looked.
    """
    if version == upgrade.to_version:
        return upgrade.phase in ("waiting", "shifting", "finishing")
    return version == upgrade.from_version and upgrade.phase in ("shifting", "finishing")


def _serves(member: Member) -> bool:
    return member.status == "active" and member.node.reachable


def _is_undrained(member: Member) -> bool:
    """Whether it has yet to be drained. A node that serves other models too is left to do so."""
    return member.status != "dead" and not member.drain_asked and len(member.node.facts.models) == 1


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True

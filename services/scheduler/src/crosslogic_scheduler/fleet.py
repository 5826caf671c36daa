"""The scheduler's view of the fleet, kept up to date by the registry's watches, and kept when these are lost."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.outliers import OutlierPolicy, Reason, Seen
from crosslogic_common.regions import RegionTable
from crosslogic_scheduler import policy
from crosslogic_scheduler.deployments import Deployments
from crosslogic_scheduler.domain import NodeState, Picked, Question, Tier
from crosslogic_scheduler.ejections import Ejections
from crosslogic_scheduler.failover import Shares, key_of_org, next_region
from crosslogic_scheduler.index import NodeIndex
from crosslogic_scheduler.lanes.ports import NoRoomKnown, Room
from crosslogic_scheduler.prefixes import PrefixIndex
from crosslogic_scheduler.strategies import FULL, choose
from crosslogic_scheduler.versions import Versions, Wanted

NO_CAPACITY_RETRY_S = 1.0


def _nothing(_what: object) -> None:
    return


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewEvents:
    """Who is told of what happens in the view."""

    ejected: Callable[[Reason], object] = _nothing
    failed_over: Callable[[str], None] = _nothing
    """With the region that is down."""


class FleetView:
    """The active nodes."""

    def __init__(
        self,
        *,
        draw: Callable[[], float],
        now: Callable[[], float],
        regions: RegionTable,
        failover_share: float = 0.2,
        outliers: OutlierPolicy | None = None,
        events: ViewEvents | None = None,
    ) -> None:
        """`draw` gives a random number in [0, 1), `now` seconds that never go back."""
        self._draw = draw
        self._now = now
        self._regions = regions
        self._codes = regions.codes
        self._events = events or ViewEvents()
        self._shares = Shares(share=failover_share)
        self._deployments = Deployments(code_of=regions.code)
        self._versions = Versions()
        self._prefixes = PrefixIndex()
        self._nodes: dict[str, NodeState] = {}
        self._index = NodeIndex(strategy_of=self._deployments.strategy)
        self._ejections = Ejections(
            index=self._index,
            now=now,
            policy=outliers or OutlierPolicy(),
            ejected=lambda _node, reason: self._events.ejected(reason),
        )
        self._arriving: set[str] | None = None
        self.room: Room = NoRoomKnown()
        """How many requests each node still takes, where that is known."""
        self.known = False
        """Whether a whole snapshot was ever received."""

    def __len__(self) -> int:
        """Active nodes."""
        return len(self._nodes)

    @property
    def ejected(self) -> int:
        """Nodes that are ejected now."""
        return len(self._ejections)

    @property
    def remembered_blocks(self) -> int:
        """Blocks of prompts that are remembered."""
        return len(self._prefixes)

    def apply(self, message: registry_pb.WatchNodesResponse) -> None:
        """Takes a message of the registry's watch.

        A node that a snapshot no longer has goes once the snapshot is complete: one that breaks off half way takes no
        node out of service.
        """
        if message.snapshot_start:
            self._arriving = set()
        for node in message.nodes:
            self._take(node)
        for node_id in message.removed_node_ids:
            self._drop(node_id)
        if self._arriving is not None:
            self._arriving.update(node.id for node in message.nodes)
            self._arriving.difference_update(message.removed_node_ids)
            if message.snapshot_complete:
                for node_id in self._nodes.keys() - self._arriving:
                    self._drop(node_id)
                self._arriving = None
                self.known = True

    def apply_catalogue(self, models: Iterable[registry_pb.Model]) -> None:
        """Takes the whole catalogue of models: how their nodes are chosen, and which versions serve."""
        models = list(models)
        self._versions.replace(models)
        if self._deployments.replace(models):
            self._index.refresh_strategies()

    def report(self, node_id: str, seen: Seen) -> None:
        """Takes what a gateway saw of a node."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.ended(seen.succeeded + seen.failed)
            self._ejections.take(node, seen)

    def pick(self, question: Question, version: str | None = None) -> Picked:
        """The node for a request; from now on the request is part of its load.

        `version` is that of the nodes that began the stream which it goes on with; None: it begins here. Raises
        NO_CAPACITY; UNAVAILABLE before the fleet is known.
        """
        if not self.known:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the fleet is not known yet")
        region = self._codes.get(question.region, question.region)
        now = self._now()
        wanted = self._versions.wanted(question, version, self._draw)
        node = self._ejections.trial(question, region, wanted) if len(self._ejections) else None
        region_failover = False
        if node is None:
            node = self._at_home(question, region, now, wanted)
        if node is None:
            node = self._abroad(question, region, now, wanted)
            region_failover = node is not None
        if node is None:
            node = self._from_tier(Tier.SILENT, question, region, now, wanted)
        if node is None:
            raise CodedError(ErrorCode.NO_CAPACITY, retry_after_s=NO_CAPACITY_RETRY_S)
        hashes = question.prefix_hashes
        prompt_tokens = unread = question.prompt_tokens
        if hashes:
            unread -= self._prefixes.read_tokens(hashes, node.id)
            self._prefixes.note(hashes, node.id)
        node.send(question.estimated_tokens - prompt_tokens, unread / node.prefill_tokens_per_sec, now)
        return node, region_failover

    def _at_home(self, question: Question, region: str, now: float, wanted: Wanted | None) -> NodeState | None:
        """A reachable node of the region."""
        node = self._from_tier(Tier.SOUND, question, region, now, wanted)
        if node is None:
            return self._from_tier(Tier.SPARED, question, region, now, wanted)
        if node.load + node.step > FULL and (wanted is not None or self._index.has_reserves):
            return self._relief(node, question, region, now, wanted)
        return node

    def _from_tier(
        self, tier: Tier, question: Question, region: str, now: float, wanted: Wanted | None
    ) -> NodeState | None:
        for pool in self._index.pools(tier, question.model, question.org_id, region, wanted):
            if question.reserved:
                node = self.room.roomiest(pool.nodes, question.excluded_node_ids)
                if node is not None:
                    return node
            node = choose(pool, question, self._draw, self._prefixes, now)
            if node is not None:
                return self.room.unless_full(node, pool.nodes, question.excluded_node_ids)
        return None

    def _relief(self, full: NodeState, question: Question, region: str, now: float, wanted: Wanted | None) -> NodeState:
        """A less loaded node than one that is full, among those that are not the first choice.

        The other version's sound nodes are the first of these while two versions serve.
        Nodes at risk take what would wait elsewhere. Silent ones do once more than half of a pool is silent: then it
        is likelier that the registry is cut off from them than that all of these died, and those left would be buried.
        """
        best = full
        two_versions = wanted is not None and len(wanted.versions) > 1 and not full.org_id
        for tier in Tier if two_versions else (Tier.SPARED, Tier.SILENT):
            for pool in self._index.pools(tier, question.model, question.org_id, region, wanted):
                if tier is Tier.SILENT:
                    place = (question.model, region, pool.nodes[0].org_id)
                    sound = self._index.pool(Tier.SOUND, place)
                    if sound is not None and len(sound.nodes) >= len(pool.nodes):
                        continue
                node = policy.pick_one(pool, question.excluded_node_ids, self._draw, now)
                if node is not None and not node.ejected and node.load + node.step < best.load + best.step:
                    best = node
        return best

    def _abroad(self, question: Question, region: str, now: float, wanted: Wanted | None) -> NodeState | None:
        """A node of the region that takes this client over while its own is down.

        A region is down for a request when it has no reachable node that might serve it.
        """
        fallback = self._fallback(question, region)
        if not fallback:
            return None
        if any(
            True
            for tier in (Tier.SOUND, Tier.SPARED)
            for _ in self._index.pools(tier, question.model, question.org_id, region, wanted)
        ):
            return None
        if not question.excluded_node_ids:
            self._shares.offer(region, now)
        client_key = question.client_key or key_of_org(question.org_id)
        target = next_region(client_key, fallback, self._shares.share)
        if target is None:
            return None
        node = self._from_tier(Tier.SOUND, question, target, now, wanted)
        if node is None or not (question.excluded_node_ids or self._shares.take(region, target, now)):
            return None
        self._events.failed_over(region)
        return node

    def _fallback(self, question: Question, region: str) -> Sequence[str]:
        """The regions that may take the request over, first choice first."""
        if question.residency_pinned or not region:
            return ()
        if question.allowed_regions:
            allowed = (self._regions.code(each) for each in question.allowed_regions)
            return [code for code in dict.fromkeys(allowed) if code != region]
        row = self._regions.regions.get(region)
        return row.fallback if row else ()

    def _take(self, node: registry_pb.Node) -> None:
        doomed = node.spot_notice.kind == registry_pb.SPOT_NOTICE_KIND_TERMINATION
        if node.status != registry_pb.NODE_STATUS_ACTIVE or doomed:
            self._drop(node.id)
            return
        facts = node.facts
        known = self._nodes.get(node.id)
        fresh = self._fresh(node)
        if known is None or not _same_place(known, fresh):
            if known is not None:
                self._index.remove(known)
                fresh.take_over(known)
                self._ejections.replaced(fresh)
                if fresh.reachable and not known.reachable:
                    self._ejections.came_back(fresh)
            self._nodes[node.id] = known = fresh
            self._index.add(known)
        known.handicap = policy.handicap(node.health_score)
        heartbeat_ns = node.last_heartbeat_time.ToNanoseconds()
        if heartbeat_ns and heartbeat_ns == known.heartbeat_ns:
            # No news of its load (a lost stream, a snapshot after a reconnect): what was sent to it still counts.
            return
        load, step = policy.load_of(
            capacity=known.capacity,
            decode_tokens_per_sec=facts.decode_tokens_per_sec,
            current_tokens_per_sec=node.load.current_tokens_per_sec,
            waiting=node.load.waiting,
            running=node.load.running,
        )
        known.horizon_tokens = step * known.capacity * policy.HEARTBEAT_S
        known.heard(
            heartbeat_ns=heartbeat_ns,
            load=load,
            step=step,
            connections=node.load.running + node.load.waiting,
            delivered=policy.sane(node.load.current_tokens_per_sec) / known.capacity,
        )

    def _fresh(self, node: registry_pb.Node) -> NodeState:
        facts = node.facts
        prefill_tokens_per_sec = policy.sane(facts.prefill_tokens_per_sec) or policy.ASSUMED_PREFILL_TOKENS_PER_SEC
        return NodeState(
            id=node.id,
            address=facts.address,
            region=self._regions.code(facts.region),
            org_id=node.org_id,
            models=frozenset(facts.models),
            reachable=node.reachable,
            capacity=policy.capacity_of(facts.max_tokens_per_sec),
            version=facts.model_version,
            at_risk=node.spot_notice.kind == registry_pb.SPOT_NOTICE_KIND_RISK or policy.is_unwell(node.health_score),
            prefill_tokens_per_sec=prefill_tokens_per_sec,
        )

    def _drop(self, node_id: str) -> None:
        node = self._nodes.pop(node_id, None)
        if node is not None:
            self._index.remove(node)
            self._ejections.gone(node)


def _same_place(known: NodeState, fresh: NodeState) -> bool:
    return (
        known.reachable == fresh.reachable
        and known.capacity == fresh.capacity
        and known.address == fresh.address
        and known.region == fresh.region
        and known.org_id == fresh.org_id
        and known.at_risk == fresh.at_risk
        and known.models == fresh.models
        and known.version == fresh.version
        and known.prefill_tokens_per_sec == fresh.prefill_tokens_per_sec
    )

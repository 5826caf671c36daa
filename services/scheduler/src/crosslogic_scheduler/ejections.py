"""Nodes that are passed over for what gateways saw of them."""

import heapq
from collections.abc import Callable
from statistics import median

from crosslogic_common.logs import get_logger
from crosslogic_common.outliers import OutlierPolicy, PeerRecord, Phase, Reason, Seen
from crosslogic_scheduler.domain import NodeState, Question, Tier
from crosslogic_scheduler.index import ANYBODY, ANYWHERE, NodeIndex, Place, places
from crosslogic_scheduler.versions import Wanted

MIN_PEERS = 5
"""Nodes whose time to the first byte must be known before one of them can be called slow."""
MAX_PEERS = 100
"""Nodes of a pool that are looked at for what is typical."""
TYPICAL_FOR_S = 5.0
BUSIER = 0.1
"""Share of what it can generate, above the median, from which a node is busier than its peers."""
Told = Callable[[NodeState, Reason], object]


class Ejections:
    """Takes what gateways saw; ejects, tries again and restores. Holds one record a node.

    Never are more than half of a pool's reachable nodes ejected: where most fail, the cause is likely elsewhere.
    """

    def __init__(self, *, index: NodeIndex, now: Callable[[], float], policy: OutlierPolicy, ejected: Told) -> None:
        """`now` is monotonic, in seconds. `ejected` is told of each ejection."""
        self._index = index
        self._now = now
        self._policy = policy
        self._told = ejected
        self._records: dict[str, PeerRecord] = {}
        self._out: list[tuple[float, str]] = []
        self._nodes: dict[str, NodeState] = {}
        """Those ejected, by id."""
        self._half_open: dict[str, dict[str, NodeState]] = {}
        """Those that one request may try, by model and id."""
        self._typical: dict[Place, tuple[float, float, float]] = {}
        """Median time to the first byte, median of what nodes deliver, and when these were looked up."""
        self._log = get_logger(__name__)

    def __len__(self) -> int:
        """Ejected nodes."""
        return len(self._nodes)

    def take(self, node: NodeState, seen: Seen) -> None:
        """A gateway's report of a node."""
        now = self._now()
        record = self._records.get(node.id)
        if record is None:
            record = self._records[node.id] = PeerRecord()
        if record.phase is Phase.OUT:
            return
        record.note(seen, self._policy, now)
        node.latency_us = record.latency_us
        if record.phase is Phase.HALF_OPEN:
            if seen.failed:
                self._eject(node, record, Reason.PROBE_FAILED, now)
            elif seen.succeeded and record.trial_under_way:
                self._restore(node, record, now)
            return
        reason = record.reason_to_eject(self._policy, self._typical_latency_us(node, now), now)
        if reason is not None and self._may_eject(node):
            self._eject(node, record, reason, now)

    def trial(self, question: Question, region: str, wanted: Wanted | None = None) -> NodeState | None:
        """The ejected node whose time is over and that this request may try. None: none.

        A request that failed elsewhere before tries none: it has few tries left.
        """
        now = self._now()
        while self._out and self._out[0][0] <= now:
            _, node_id = heapq.heappop(self._out)
            self._open_half(node_id)
        candidates = self._half_open.get(question.model)
        if not candidates or question.excluded_node_ids:
            return None
        for node in candidates.values():
            if (
                node.reachable
                and node.org_id in (ANYBODY, question.org_id)
                and region in (ANYWHERE, node.region)
                and (wanted is None or wanted.takes(node))
            ):
                record = self._records[node.id]
                record.start_trial(self._policy, now)
                self._close_half(node)
                # Were its outcome never told, another request would try it then.
                heapq.heappush(self._out, (record.until, node.id))
                return node
        return None

    def came_back(self, node: NodeState) -> None:
        """The node was silent and is heard of again: what was held against it is old. Its place must be taken anew."""
        record = self._records.get(node.id)
        if node.ejected and record is not None:
            record.restore(self._policy, self._now())
            self._forget_ejection(node)

    def replaced(self, node: NodeState) -> None:
        """The node's state lives in a new object."""
        if node.id in self._nodes:
            self._close_half(self._nodes[node.id])
            self._nodes[node.id] = node
            if self._records[node.id].phase is Phase.HALF_OPEN and not self._records[node.id].trial_under_way:
                self._add_half(node)

    def gone(self, node: NodeState) -> None:
        """The node left."""
        self._records.pop(node.id, None)
        self._forget_ejection(node)

    def _open_half(self, node_id: str) -> None:
        node, record = self._nodes.get(node_id), self._records.get(node_id)
        if node is not None and record is not None and record.until <= self._now():
            record.half_open()
            self._add_half(node)

    def _eject(self, node: NodeState, record: PeerRecord, reason: Reason, now: float) -> None:
        self._close_half(node)
        if not node.ejected:
            self._index.remove(node)
            node.ejected = True
            self._index.add(node)
        record.eject(self._policy, now)
        node.latency_us = 0.0
        self._nodes[node.id] = node
        heapq.heappush(self._out, (record.until, node.id))
        self._told(node, reason)
        self._log.warning(
            "node ejected", node_id=node.id, reason=reason.value, times=record.ejections, for_s=record.until - now
        )

    def _restore(self, node: NodeState, record: PeerRecord, now: float) -> None:
        record.restore(self._policy, now)
        self._index.remove(node)
        self._forget_ejection(node)
        self._index.add(node)
        self._log.info("node restored", node_id=node.id)

    def _forget_ejection(self, node: NodeState) -> None:
        self._close_half(node)
        self._nodes.pop(node.id, None)
        node.ejected = False

    def _add_half(self, node: NodeState) -> None:
        for model in node.models:
            self._half_open.setdefault(model, {})[node.id] = node

    def _close_half(self, node: NodeState) -> None:
        for model in node.models:
            of_model = self._half_open.get(model)
            if of_model is not None:
                of_model.pop(node.id, None)
                if not of_model:
                    del self._half_open[model]

    def _may_eject(self, node: NodeState) -> bool:
        if not node.reachable:
            # Silent and failing: two witnesses.
            return True
        return all(self._half_remains(place) for place in places(node))

    def _half_remains(self, place: Place) -> bool:
        sound = self._index.pool(Tier.SOUND, place)
        spared = self._index.pool(Tier.SPARED, place)
        ejected = sum(1 for node in spared.nodes if node.ejected) if spared else 0
        reachable = (len(sound.nodes) if sound else 0) + (len(spared.nodes) if spared else 0)
        return 2 * (ejected + 1) <= reachable

    def _typical_latency_us(self, node: NodeState, now: float) -> float:
        """The median of the pool's times to the first byte. 0: too few are known, or the node has more to do than most.

        A node that is slow because it is busy is not ill: taking it out would make the others so. Busy is who generates
        more than others, not who has a longer queue: the queue of one that is stuck is the longest. Looked up anew
        every 5 s.
        """
        if node.latency_us <= self._policy.slow_floor_us:
            return 0.0
        place = max(places(node), key=lambda each: each[1], default=None)
        pool = None if place is None else self._index.pool(Tier.SOUND, place)
        if place is None or pool is None:
            return 0.0
        known = self._typical.get(place)
        if known is None or now - known[2] > TYPICAL_FOR_S:
            latencies = [peer.latency_us for peer in pool.nodes[:MAX_PEERS] if peer.latency_us]
            if len(latencies) < MIN_PEERS:
                return 0.0
            delivered = [peer.delivered for peer in pool.nodes[:MAX_PEERS]]
            known = (median(latencies), median(delivered), now)
            if len(self._typical) >= MAX_PEERS * MAX_PEERS:
                self._typical.clear()
            self._typical[place] = known
        return known[0] if node.delivered <= known[1] + BUSIER else 0.0

"""Which node runs a request. Pure: a snapshot and a request in, a node out."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

SMALL_POOL = 8
"""Up to here every candidate is compared; beyond it two drawn at random are (power of two choices: Mitzenmacher 2001),
which costs the same for any size and keeps schedulers that share a fleet from all choosing the same node."""
ASSUMED_STREAMS = 64
"""Streams that a node is taken to run at full speed when its own single-stream rate was not measured."""


@dataclass(slots=True)
class NodeState:
    """A node as far as picking needs it. Its load changes in place with each heartbeat and each pick."""

    id: str
    address: str
    region: str
    org_id: str
    """The only organisation it serves. Empty: any."""
    models: frozenset[str]
    reachable: bool
    max_tokens_per_sec: float
    decode_tokens_per_sec: float
    current_tokens_per_sec: float = 0.0
    waiting: int = 0
    assigned: int = 0
    """Requests sent to it since its last heartbeat, which its own figures do not show yet."""

    def load(self) -> float:
        """Tokens per second asked of it over the most it can generate; 1 is full."""
        capacity = self.max_tokens_per_sec or 1.0
        stream = self.decode_tokens_per_sec or capacity / ASSUMED_STREAMS
        return (self.current_tokens_per_sec + (self.assigned + self.waiting) * stream) / capacity


def candidates(nodes: Sequence[NodeState], model: str, org_id: str, region: str) -> list[NodeState]:
    """The nodes that may serve: an organisation's own where it has any, else shared ones; reachable ones where any is.

    A node of another organisation is never among them.
    """
    fitting = [
        node
        for node in nodes
        if model in node.models and (not region or node.region == region) and node.org_id in ("", org_id)
    ]
    own = [node for node in fitting if node.org_id]
    pool = own or fitting
    # When none is reachable it is likelier that we are cut off than that all are dead.
    return [node for node in pool if node.reachable] or pool


def pick(pool: Sequence[NodeState], excluded: Collection[str], draw: Callable[[], float]) -> NodeState | None:
    """The least loaded of a small pool; of a large one, the less loaded of two drawn at random. None: none is left.

    `draw` gives a number in [0, 1). Ties go to a random candidate, so that a cold fleet fills evenly.
    """
    size = len(pool)
    if size > SMALL_POOL:
        found = _better_of_two(pool, size, excluded, draw)
        if found is not None:
            return found
    best: NodeState | None = None
    best_load = 0.0
    start = int(draw() * size)
    for offset in range(size):
        node = pool[(start + offset) % size]
        if node.id in excluded:
            continue
        load = node.load()
        if best is None or load < best_load:
            best, best_load = node, load
    return best


def _better_of_two(
    pool: Sequence[NodeState], size: int, excluded: Collection[str], draw: Callable[[], float]
) -> NodeState | None:
    first_at = int(draw() * size)
    second_at = int(draw() * (size - 1))
    if second_at >= first_at:
        second_at += 1
    first, second = pool[first_at], pool[second_at]
    if excluded:
        if first.id in excluded:
            return None if second.id in excluded else second
        if second.id in excluded:
            return first
    return first if first.load() <= second.load() else second

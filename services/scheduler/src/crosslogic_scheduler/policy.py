"""Which node runs a request. Pure: a snapshot and a request in, a node out."""

import math
from collections.abc import Callable, Collection, Sequence

from crosslogic_scheduler.domain import NodeState
from crosslogic_scheduler.pool import Pool

SMALL_POOL = 8
"""Up to here every candidate is compared; beyond it two drawn at random are (power of two choices: Mitzenmacher 2001),
which costs the same for any size and keeps schedulers that share a fleet from all choosing the same node."""
MAX_DRAWS = 8
"""Tries to draw a node in proportion to its capacity. Drawn evenly, a fleet of small and large nodes buries the small
ones: simulated at 66 % load, 500 next to 16,000 tokens/s, the worst node stood at 5.6 of its capacity, and at 0.7 when
drawn by capacity. It also bounds what a node gains that claims to be enormous."""
ASSUMED_PREFILL_TOKENS_PER_SEC = 8_000.0
"""Of a node whose own rate was not measured."""
READING_WEIGHT = 4.0
"""What a second until the prompt is read weighs, in load. By simulation (docs/adr/0025-picking.md): from 2 to 8 hardly
matters, 0 doubles the time to the first token."""
UNWELL_BELOW = 40
"""Health score (registry.v1.Node) below which a node is spared: half of its calls fail, say, or it falls silent."""
WELL_FROM = 90
"""Health score from which nodes count as equally well: one restart of the engine, say, is no reason to idle."""
HEALTH_WEIGHT = 0.5
"""What a node of health score 0 would seem more loaded than it is. One that is hot (80 points) gets what others would
get only at a load higher by 5 %; one below `UNWELL_BELOW` is spared altogether."""
HEARTBEAT_S = 5.0
"""How often nodes tell of themselves: as long a request of one's own counts, unless its end is told before."""
ASSUMED_STREAMS = 64
"""Streams that a node is taken to run at full speed when its own single-stream rate was not measured."""
UNMEASURED_TOKENS_PER_SEC = 100.0
"""Taken of a node that was not measured: little, so that measured ones are preferred and it is not left idle."""


def capacity_of(max_tokens_per_sec: float) -> float:
    """Tokens per second that a node can generate, by its own words; more than 0."""
    return sane(max_tokens_per_sec) or UNMEASURED_TOKENS_PER_SEC


def load_of(
    *, capacity: float, decode_tokens_per_sec: float, current_tokens_per_sec: float, waiting: int, running: int = 0
) -> tuple[float, float]:
    """A node's load by its own words, and what one more request adds to it.

    Tokens per second now over the most it can, and no less than what its running requests would take at full speed: a
    node that has become slow generates little and is not free. Requests that wait there count as streams that will run,
    since a node whose queue grows generates no more than one that is just full. A figure that is no number counts as 0:
    a node may lie, but not in a way that breaks comparing.
    """
    # One stream cannot take more than the whole node.
    step = min((sane(decode_tokens_per_sec) or capacity / ASSUMED_STREAMS) / capacity, 1.0)
    return max(sane(current_tokens_per_sec) / capacity, running * step) + waiting * step, step


def pick_one(pool: Pool, excluded: Collection[str], draw: Callable[[], float], now: float) -> NodeState | None:
    """The least loaded of a small pool; of a large one, the less loaded of two drawn at random. None: none is left.

    Compared is the load that the request would leave. Among equals of a small pool any may be chosen, so that a cold
    fleet fills evenly.
    """
    nodes = pool.nodes
    size = len(nodes)
    if size == 1:
        return None if nodes[0].id in excluded else nodes[0]
    if size > SMALL_POOL:
        first = _drawn(pool, size, draw)
        second = _drawn(pool, size, draw)
        if second is first:
            # Else a node that is stuck would get its share of the draws that meet it twice, however full it is.
            second = nodes[int(draw() * size)]
        if not excluded:
            return first if cost(first, now) <= cost(second, now) else second
        left = [node for node in (first, second) if node.id not in excluded]
        if left:
            return min(left, key=lambda node: cost(node, now))
    return _least(nodes, size, excluded, draw, now)


def cost(node: NodeState, now: float) -> float:
    """How bad it is to send one more request to a node: its load then, its health, how long the prompt has to wait."""
    wait_s = node.reads_until - now
    return node.load + node.step + node.handicap + (READING_WEIGHT * wait_s if wait_s > 0.0 else 0.0)


def _drawn(pool: Pool, size: int, draw: Callable[[], float]) -> NodeState:
    """A node, drawn in proportion to its capacity: drawn evenly, and drawn again as often as it is smaller."""
    nodes, largest = pool.nodes, pool.largest
    node = nodes[int(draw() * size)]
    tries = 1
    while node.capacity < largest and tries < MAX_DRAWS and draw() * largest > node.capacity:
        node = nodes[int(draw() * size)]
        tries += 1
    return node


def _least(
    nodes: Sequence[NodeState], size: int, excluded: Collection[str], draw: Callable[[], float], now: float
) -> NodeState | None:
    best: NodeState | None = None
    best_cost = 0.0
    start = int(draw() * size)
    for offset in range(size):
        node = nodes[(start + offset) % size]
        node_cost = cost(node, now)
        if (best is None or node_cost < best_cost) and node.id not in excluded:
            best, best_cost = node, node_cost
    return best


def is_unwell(health_score: int) -> bool:
    """Whether a node's score, 1 to 100, is so low that others are better. 0: the registry gives none."""
    return 0 < health_score < UNWELL_BELOW


def handicap(health_score: int) -> float:
    """What a node's score, 1 to 100, adds to its load. 0: the registry gives none, which is no sign."""
    return HEALTH_WEIGHT * (WELL_FROM - health_score) / WELL_FROM if 0 < health_score < WELL_FROM else 0.0


def ailing(node: NodeState) -> float:
    """By how much a node's requests or times count more for its health; 1 for one that is well."""
    return 1.0 + node.handicap / HEALTH_WEIGHT


def sane(figure: float) -> float:
    """A rate that a node tells of itself, or 0 where it is none."""
    return figure if 0.0 < figure < math.inf else 0.0

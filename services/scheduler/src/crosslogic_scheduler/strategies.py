"""How a node is chosen within a pool, by the deployment's strategy or the request's session. Pure."""

from collections.abc import Callable, Collection, Sequence

from crosslogic_common.prefix_blocks import BLOCK_ENDS, BYTES_A_TOKEN
from crosslogic_scheduler.domain import NodeState, Question, Strategy
from crosslogic_scheduler.policy import HEALTH_WEIGHT, READING_WEIGHT, SMALL_POOL, ailing, cost, pick_one
from crosslogic_scheduler.pool import Pool
from crosslogic_scheduler.prefixes import PrefixIndex

FULL = 1.0
"""Load from which a request waits."""
SESSION_WAIT_S = 0.5
"""A node that has to read prompts for longer counts as full: by simulation, longer waits cost more than caches save."""
MAX_SESSION_TRIES = 8
"""Nodes that a session looks at, in its own order, before it takes the least loaded of them."""
MAX_PREFIX_CANDIDATES = 8
WAITING_WEIGHT = 2.0
"""How much worse load is that makes a request wait than load that only makes it slower."""
Draw = Callable[[], float]
Better = Callable[[NodeState, NodeState], bool]


def choose(pool: Pool, question: Question, draw: Draw, prefixes: PrefixIndex, now: float) -> NodeState | None:
    """A node of `pool` for a request. None: all failed it before."""
    if question.session_key:
        return for_session(pool, question.session_key, question.excluded_node_ids, now)
    strategy = pool.strategy
    if strategy is Strategy.LEAST_LOAD:
        return pick_one(pool, question.excluded_node_ids, draw, now)
    if strategy is Strategy.PREFIX_AFFINITY:
        return by_prefix(pool, question.prefix_hashes, question.excluded_node_ids, draw, prefixes, now)
    if strategy is Strategy.ROUND_ROBIN:
        return in_turn(pool, question.excluded_node_ids)
    if strategy is Strategy.LEAST_CONNECTIONS:
        return _least(pool, question.excluded_node_ids, draw, _fewer_connections)
    return _least(pool, question.excluded_node_ids, draw, _sooner_answered)


def for_session(pool: Pool, key: int, excluded: Collection[str], now: float) -> NodeState | None:
    """The session's node, or the next in its order while that one is full.

    Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): a node that leaves moves its own
    sessions only, and a node that is full passes new requests on to the same neighbour each time.
    """
    least: NodeState | None = None
    tries = 0
    for node in pool.ring().from_key(key):
        if node.id in excluded:
            continue
        if node.load + node.step + node.handicap <= FULL and node.reads_until <= now + SESSION_WAIT_S:
            return node
        if least is None or cost(node, now) < cost(least, now):
            least = node
        tries += 1
        if tries == MAX_SESSION_TRIES:
            break
    return least


def in_turn(pool: Pool, excluded: Collection[str]) -> NodeState | None:
    """The node whose turn it is. One that is not well loses turns: a third of them at a score of 60."""
    nodes = pool.nodes
    passed_over: NodeState | None = None
    for _ in range(len(nodes)):
        pool.turn = (pool.turn + 1) % len(nodes)
        node = nodes[pool.turn]
        if node.id in excluded:
            continue
        if node.handicap:
            node.turns_lost += node.handicap / HEALTH_WEIGHT
            if node.turns_lost >= 1.0:
                node.turns_lost -= 1.0
                passed_over = passed_over or node
                continue
        return node
    return passed_over


def by_prefix(
    pool: Pool, hashes: Sequence[int], excluded: Collection[str], draw: Draw, prefixes: PrefixIndex, now: float
) -> NodeState | None:
    """The node on which the request is likely to have its first token soonest.

    Candidates are those that have read most of the prompt and the one that load alone would choose; each is judged by
    itself. A prompt that nobody has read goes where load says: misses do not gather on one node.
    """
    best = pick_one(pool, excluded, draw, now)
    if not hashes or best is None:
        return best
    prompt_tokens = _tokens(len(hashes))
    best_cost = _cost(best, prompt_tokens, now)
    judged: set[str] = set()
    for node_id, blocks in prefixes.longest(hashes):
        if node_id in judged or node_id in excluded:
            continue
        judged.add(node_id)
        node = pool.get(node_id)
        if node is not None:
            cost = _cost(node, prompt_tokens - _tokens(blocks), now)
            if cost < best_cost:
                best, best_cost = node, cost
        if len(judged) == MAX_PREFIX_CANDIDATES:
            break
    return best


def _cost(node: NodeState, unread_tokens: float, now: float) -> float:
    """What a request costs on a node, in load. A second of reading its prompt is as bad as one of waiting for that."""
    waiting = max(node.load + node.step - FULL, 0.0)
    return cost(node, now) + WAITING_WEIGHT * waiting + READING_WEIGHT * unread_tokens / node.prefill_tokens_per_sec


def _tokens(blocks: int) -> float:
    return BLOCK_ENDS[min(blocks, len(BLOCK_ENDS)) - 1] / BYTES_A_TOKEN


def _least(pool: Pool, excluded: Collection[str], draw: Draw, better: Better) -> NodeState | None:
    """The best of a small pool; of a large one, the better of two drawn at random."""
    nodes = pool.nodes
    size = len(nodes)
    if size > SMALL_POOL:
        at = int(draw() * size)
        first, second = nodes[at], nodes[(at + 1 + int(draw() * (size - 1))) % size]
        left = [node for node in (first, second) if node.id not in excluded]
        if left:
            return second if len(left) > 1 and better(second, first) else left[0]
    best: NodeState | None = None
    start = int(draw() * size)
    for offset in range(size):
        node = nodes[(start + offset) % size]
        if node.id not in excluded and (best is None or better(node, best)):
            best = node
    return best


def _fewer_connections(left: NodeState, right: NodeState) -> bool:
    return (left.connections + 1) * ailing(left) < (right.connections + 1) * ailing(right)


def _sooner_answered(left: NodeState, right: NodeState) -> bool:
    """By the time to the first byte for each request that it has, as in Finagle's peak EWMA.

    Latency alone would send everything to one node until its next report. A node of which nothing is known yet is
    compared by its requests.
    """
    if left.latency_us and right.latency_us:
        return left.latency_us * (left.connections + 1) * ailing(left) < (
            right.latency_us * (right.connections + 1) * ailing(right)
        )
    return _fewer_connections(left, right)

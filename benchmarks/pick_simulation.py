"""A fleet of simulated engines, picked for by the scheduler's own code or by an oracle that knows everything.

An engine runs so many requests at once, reads prompts one after the other, keeps what it read in a prefix cache, and
writes more slowly for each the more it runs: what decides where a request is best off, without an engine's details.
"""

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from benchmarks.measure import percentile
from benchmarks.pick_trace import Arrival
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.outliers import Reason, Seen
from crosslogic_common.regions import default_regions
from crosslogic_scheduler.fleet import FleetView, ViewEvents

HEARTBEAT_S = 5.0
REPORT_S = 1.0
SLOTS = 32
STREAM_TOKENS_PER_S = 60.0
CACHE_TOKENS = 150_000
MODEL = "model"


@dataclass(frozen=True, slots=True)
class Question:
    """A pick's question (crosslogic_scheduler.domain.Question)."""

    prefix_hashes: Sequence[int]
    session_key: int = 0
    model: str = MODEL
    org_id: str = ""
    region: str = ""
    excluded_node_ids: tuple[str, ...] = ()
    client_key: int = 0
    residency_pinned: bool = False
    allowed_regions: tuple[str, ...] = ()
    reserved: bool = False
    prompt_tokens: int = 0
    estimated_tokens: int = 0


@dataclass(eq=False, slots=True)
class Engine:
    """One node."""

    name: str
    speed: float
    """1: reads 8,000 and writes 1,000 tokens a second."""
    slower: float = 1.0
    """How many times slower it is than it says."""
    ends: list[float] = field(default_factory=list)
    """When what runs will end; a heap."""
    waiting: deque[Arrival] = field(default_factory=deque)
    reads_until: float = 0.0
    cache: OrderedDict[tuple[int, int], int] = field(default_factory=OrderedDict)
    cached_tokens: int = 0
    answered: int = 0
    first_byte_us: int = 0
    prompt_tokens: int = 0
    read_tokens: int = 0

    def unread(self, arrival: Arrival) -> int:
        """Tokens of its prompt that are not cached here."""
        of_application = min(self.cache.get((1, arrival.application), 0), arrival.instructions_tokens)
        of_conversation = min(self.cache.get((2, arrival.conversation), 0), arrival.prompt_tokens)
        return arrival.prompt_tokens - max(of_application, of_conversation)

    def rate(self, running: int) -> float:
        """Tokens a second of each of so many streams."""
        return min(STREAM_TOKENS_PER_S, 1_000.0 * self.speed / running) / self.slower

    def first_token_at(self, arrival: Arrival, now: float) -> float:
        """When it would have its first token if it were sent here now."""
        free = SLOTS - len(self.ends) - len(self.waiting)
        start = now
        if free <= 0:
            start = heapq.nsmallest(1 - free, self.ends)[-1] if 1 - free <= len(self.ends) else self.ends[0] + 60.0
        return max(start, self.reads_until) + self.unread(arrival) * self.slower / (8_000.0 * self.speed)

    def done_at(self, arrival: Arrival, now: float) -> float:
        """When it would be complete."""
        running = min(len(self.ends) + len(self.waiting) + 1, SLOTS)
        return self.first_token_at(arrival, now) + arrival.answer_tokens / self.rate(running)

    def start(self, arrival: Arrival, now: float) -> tuple[float, float, int]:
        """Begins it: when its first token comes, when it ends, how many tokens of its prompt were cached."""
        unread = self.unread(arrival)
        first = max(now, self.reads_until) + unread * self.slower / (8_000.0 * self.speed)
        self.reads_until = first
        end = first + arrival.answer_tokens / self.rate(len(self.ends) + 1)
        heapq.heappush(self.ends, end)
        self._remember((1, arrival.application), arrival.instructions_tokens)
        self._remember((2, arrival.conversation), arrival.prompt_tokens + arrival.answer_tokens)
        self.prompt_tokens += arrival.prompt_tokens
        self.read_tokens += unread
        return first, end, arrival.prompt_tokens - unread

    def _remember(self, key: tuple[int, int], tokens: int) -> None:
        self.cached_tokens += tokens - self.cache.pop(key, 0)
        self.cache[key] = tokens
        while self.cached_tokens > CACHE_TOKENS:
            _, dropped = self.cache.popitem(last=False)
            self.cached_tokens -= dropped

    def told(self, beat: int) -> pb.Node:
        """Its heartbeat."""
        running = len(self.ends)
        hit_rate = 1.0 - self.read_tokens / self.prompt_tokens if self.prompt_tokens else 0.0
        node = pb.Node(
            id=self.name,
            status=pb.NODE_STATUS_ACTIVE,
            reachable=True,
            facts=pb.NodeFacts(
                address=f"{self.name}:1",
                region="here",
                models=[MODEL],
                max_tokens_per_sec=1_000.0 * self.speed,
                decode_tokens_per_sec=STREAM_TOKENS_PER_S,
                prefill_tokens_per_sec=8_000.0 * self.speed,
            ),
            load=pb.NodeLoad(
                running=running,
                prompt_tokens_total=self.prompt_tokens,
                waiting=len(self.waiting),
                current_tokens_per_sec=running * self.rate(running) if running else 0.0,
            ),
        )
        node.metrics.prefix_cache_hit_rate = hit_rate
        node.last_heartbeat_time.FromMilliseconds(beat)
        return node


@dataclass(frozen=True, slots=True)
class Outcome:
    """What clients saw."""

    first_token_s: list[float]
    """Ascending."""
    whole_s: list[float]
    cached_share: float
    """Of prompt tokens, those that were cached."""

    @property
    def mean_first_token_ms(self) -> float:
        """Mean time to the first token."""
        return fmean(self.first_token_s) * 1000

    @property
    def p99_first_token_ms(self) -> float:
        """Its 99th percentile."""
        return percentile(self.first_token_s, 0.99) * 1000


Choose = Callable[[Arrival, float], Engine]


def fleet(size: int) -> list[Engine]:
    """Nodes of two kinds, one twice as fast as the other."""
    return [Engine(f"n{number}", 2.0 if number % 4 == 0 else 1.0) for number in range(size)]


def requests_per_s(engines: Sequence[Engine], utilisation: float) -> float:
    """Arrivals that would keep so many of the slots in use, with nothing cached: about 250 answer tokens each."""
    return utilisation * sum(1_000.0 * engine.speed for engine in engines) / 250.0


def by_oracle(arrivals: Iterable[Arrival], engines: list[Engine]) -> Outcome:
    """Each request where it is complete first: knows true queues and caches, and how long the answer will be."""
    return _run(arrivals, engines, lambda arrival, now: min(engines, key=lambda each: each.done_at(arrival, now)))


def by_scheduler(
    arrivals: Iterable[Arrival],
    engines: list[Engine],
    strategy: pb.PickStrategy.ValueType,
    *,
    sessions: bool = False,
    seed: int = 1,
    ejected: Callable[[Reason], object] | None = None,
) -> Outcome:
    """Each request where the scheduler's view says, which hears of nodes every five seconds.

    `sessions`: clients name theirs. `ejected` is told of ejections.
    """
    clock = [0.0]
    view = FleetView(
        draw=random.Random(seed).random,
        now=lambda: clock[0],
        regions=default_regions(),
        events=ViewEvents(ejected=ejected) if ejected else None,
    )
    view.apply_catalogue([pb.Model(name=MODEL, deployments=[pb.Deployment(strategy=strategy)])])
    view.apply(
        pb.WatchNodesResponse(nodes=[each.told(1_000) for each in engines], snapshot_start=True, snapshot_complete=True)
    )
    by_name = {each.name: each for each in engines}

    def choose(arrival: Arrival, now: float) -> Engine:
        clock[0] = now
        key = hash((3, arrival.conversation)) & (2**64 - 1) if sessions else 0
        node, _ = view.pick(Question(arrival.prefix_hashes, key, prompt_tokens=arrival.prompt_tokens))
        return by_name[node.id]

    def beat(engine: Engine, now: float) -> None:
        clock[0] = now
        view.apply(pb.WatchNodesResponse(nodes=[engine.told(1_000 + round(now * 1000))]))

    def report(engine: Engine, now: float) -> None:
        clock[0] = now
        if engine.answered:
            view.report(engine.name, Seen(engine.answered, 0, 0, engine.first_byte_us))
            engine.answered = engine.first_byte_us = 0

    return _run(arrivals, engines, choose, beat, report)


def _nothing(_engine: Engine, _now: float) -> None:
    return


def _run(
    arrivals: Iterable[Arrival],
    engines: list[Engine],
    choose: Choose,
    beat: Callable[[Engine, float], None] = _nothing,
    report: Callable[[Engine, float], None] = _nothing,
) -> Outcome:
    first_s: list[float] = []
    whole_s: list[float] = []
    cached = asked = 0
    count = len(engines)
    ends: list[tuple[float, int, int]] = []
    ticks = [(HEARTBEAT_S * (number + 1) / count, number, True) for number in range(count)]
    ticks += [(REPORT_S * (number + 1) / count, number, False) for number in range(count)]
    heapq.heapify(ticks)

    def begin(number: int, arrival: Arrival, now: float) -> None:
        nonlocal cached, asked
        first, end, found = engines[number].start(arrival, now)
        heapq.heappush(ends, (end, number, round((first - arrival.at_s) * 1e6)))
        first_s.append(first - arrival.at_s)
        whole_s.append(end - arrival.at_s)
        cached += found
        asked += arrival.prompt_tokens

    def pass_until(until: float) -> None:
        while ends and ends[0][0] <= until:
            now, number, first_byte_us = heapq.heappop(ends)
            engine = engines[number]
            heapq.heappop(engine.ends)
            engine.answered += 1
            engine.first_byte_us += first_byte_us
            if engine.waiting:
                begin(number, engine.waiting.popleft(), now)

    numbers = {id(engine): number for number, engine in enumerate(engines)}
    for arrival in arrivals:
        while ticks[0][0] <= arrival.at_s:
            at, number, is_beat = ticks[0]
            pass_until(at)
            (beat if is_beat else report)(engines[number], at)
            heapq.heapreplace(ticks, (at + (HEARTBEAT_S if is_beat else REPORT_S), number, is_beat))
        pass_until(arrival.at_s)
        engine = choose(arrival, arrival.at_s)
        if len(engine.ends) < SLOTS:
            begin(numbers[id(engine)], arrival, arrival.at_s)
        else:
            engine.waiting.append(arrival)
    pass_until(float("inf"))
    return Outcome(sorted(first_s), sorted(whole_s), cached / max(asked, 1))

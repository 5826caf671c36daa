"""This worker's operations on their way to Redis: what gathers while an answer is awaited goes out in one write.

Operations of one organisation become one call of the script, whatever their number; see `lua/admission.lua`.
"""

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from typing import Any

import msgspec

from crosslogic_common.logs import get_logger
from crosslogic_gateway.admission.limits import LEASE_MS, Kind, Spec, kinds
from crosslogic_gateway.admission.redis_link import (
    RedisAddress,
    RedisAway,
    RedisLink,
    Reply,
    Shards,
    command,
    connect,
    shards,
)

ADMIT, SETTLE, RENEW, CHARGE, TAKE, GIVE, SEED, REAPED = range(1, 9)
"""The script's operations."""
Operation = tuple[Any, ...]
MakeOperation = Callable[[int], Operation]
"""Given the number of the operation's spec in its call."""
Result = Any

BUDGET_S = 0.05
"""How long Redis may take. Then it counts as away until it answers again."""
PROBE_S = 0.2
CONNECT_TIMEOUT_S = 0.25
TOLD_S = 0.002
"""How long settlements wait for a request to go along with."""
QUIET_S = 0.003
"""Where requests follow each other more closely, they share messages: one that goes ahead would cost one of its own."""
MAX_UNSENT = 100_000
"""Settlements kept while Redis is away; beyond it the oldest are left to leases and windows."""
MAX_OPERATIONS = 512
"""Of one call: the script must not hold Redis for long."""
_PASSING = ("OOM", "LOADING", "BUSY", "READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK")
"""How such answers begin."""
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


@dataclass(frozen=True, slots=True)
class _Unsent:
    tag: str
    spec: Spec | None
    make: MakeOperation


@dataclass(slots=True)
class _Batch:
    """One call of the script."""

    tag: str
    specs: dict[Spec, int] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    answers: list["asyncio.Future[Result] | _Unsent"] = field(default_factory=list)
    """Who waits. Nobody: how to send it again, until Redis has it."""


def script_text() -> str:
    """The script."""
    return files("crosslogic_gateway.admission").joinpath("lua/admission.lua").read_text(encoding="utf-8")


def _passes(reply: str) -> bool:
    """Whether another moment or another node would not answer so. Redis 6 wraps what the script was told."""
    return reply.startswith(_PASSING) or any(f"-{code} " in reply for code in _PASSING)


def _nothing() -> None:
    """Nobody wants to be told."""


class ScriptPipe:
    """Calls the script. One a worker."""

    def __init__(
        self,
        *,
        address: RedisAddress,
        worker: str,
        window_kinds: Sequence[Kind] | None = None,
        lease_ms: int = LEASE_MS,
        budget_s: float = BUDGET_S,
        script: str | None = None,
    ) -> None:
        """`worker` names this process among all gateways' workers; `budget_s` is how long Redis may take."""
        self._address = address
        self._budget_s = budget_s
        self._kinds = kinds() if window_kinds is None else window_kinds
        text = (script_text() if script is None else script).encode()
        self._script = text
        config = _encode(
            (
                worker,
                lease_ms,
                [
                    (kind.prefix, kind.unit, kind.window_us, kind.buckets, int(kind.counted == "tokens"))
                    for kind in self._kinds
                ],
            )
        )
        digest = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()  # EVALSHA names scripts so
        self._call_head = b"*7\r\n" + b"".join(
            b"$%d\r\n%b\r\n" % (len(word), word) for word in (b"EVALSHA", digest, b"1")
        )
        self._config_word = b"$%d\r\n%b\r\n" % (len(config), config)
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._link: RedisLink | None = None
        self._shards: Shards | None = None
        self._shard_links: list[RedisLink] = []
        self._waiting: OrderedDict[str, _Batch] = OrderedDict()
        self._more: list[_Batch] = []
        self._in_flight = 0
        self._flush_due = False
        self._asked = False
        self._asked_at = 0.0
        self._told: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._down = asyncio.Event()
        self._log = get_logger(__name__)
        self.unsent: list[_Unsent] = []
        """Settlements that Redis does not have yet."""
        self.on_up: Callable[[], None] = _nothing
        """Called when Redis answers (again), before anything else goes to it."""
        self.on_down: Callable[[], None] = _nothing
        """Called when Redis is given up."""
        self.up_since = 0.0
        """The loop's time."""
        self.times_away = 0
        self.dropped = 0

    @property
    def up(self) -> bool:
        """Whether Redis answers in time, as far as is known."""
        return self._link is not None

    @property
    def idle(self) -> bool:
        """Whether Redis is there, nobody waits for an answer of its, and nobody did in the last milliseconds."""
        return (
            self._link is not None
            and not self._in_flight
            and not self._asked
            and self._loop.time() - self._asked_at >= QUIET_S
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the connection for as long as the block lasts."""
        with contextlib.suppress(RedisAway):
            await self._open()
        task = asyncio.create_task(self._keep(), name="admission pipe")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.close()

    def close(self) -> None:
        """Gives the connection up, as a dead process would."""
        link, self._link = self._link, None
        for one in (link, *self._shard_links):
            if one is not None:
                one.abort()
        for timer in (self._timer, self._told):
            if timer is not None:
                timer.cancel()

    async def flushed(self, timeout_s: float) -> None:
        """Waits until Redis has every operation, or is away, or the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self.up and (self._in_flight or self._waiting or self._flush_due) and loop.time() < until:
            await asyncio.sleep(0.005)

    def ask(self, tag: str, spec: Spec | None, make: MakeOperation) -> asyncio.Future[Result]:
        """Sends an operation whose result is wanted. Fails with RedisAway."""
        answer: asyncio.Future[Result] = self._loop.create_future()
        if self._link is None:
            answer.set_exception(RedisAway("Redis is away"))
            return answer
        self._asked = True
        self._add(tag, spec, make, answer)
        return answer

    def tell(self, tag: str, spec: Spec | None, make: MakeOperation) -> None:
        """Sends an operation that may be repeated and whose result nobody needs; kept while Redis is away."""
        unsent = _Unsent(tag, spec, make)
        if self._link is None:
            self._keep_unsent([unsent])
        else:
            self._add(tag, spec, make, unsent)

    def _add(
        self, tag: str, spec: Spec | None, make: MakeOperation, answer: "asyncio.Future[Result] | _Unsent"
    ) -> None:
        batch = self._waiting.get(tag)
        if batch is None:
            batch = self._waiting[tag] = _Batch(tag)
        batch.operations.append(make(0 if spec is None else batch.specs.setdefault(spec, len(batch.specs))))
        batch.answers.append(answer)
        if len(batch.operations) >= MAX_OPERATIONS:
            self._more.append(self._waiting.pop(tag))
        if not self._in_flight:
            self._wake()

    def _wake(self) -> None:
        """Sees to it that what has gathered is sent."""
        if self._flush_due:
            return
        if self._asked:
            # Not at once: what else this turn of the loop has to say goes along.
            self._flush_due = True
            self._loop.call_soon(self._flush)
        elif self._told is None:
            # Nobody waits for settlements: they go along with the next request, or by themselves a little later.
            self._told = self._loop.call_later(TOLD_S, self._flush)

    def _flush(self) -> None:
        if self._asked:
            self._asked_at = self._loop.time()
        self._flush_due = self._asked = False
        if self._told is not None:
            self._told.cancel()
            self._told = None
        link = self._link
        if link is None or self._in_flight:
            return
        batches = [*self._more, *self._waiting.values()]
        if not batches:
            return
        self._more = []
        self._waiting = OrderedDict()
        self._in_flight = len(batches)
        loop = self._loop
        self._timer = loop.call_later(self._budget_s, self._overdue, loop.time() + self._budget_s, link)
        if self._shards is None:
            self._send(link, batches)
            return
        by_shard: dict[int, list[_Batch]] = {}
        for batch in batches:
            by_shard.setdefault(self._shards.of(batch.tag), []).append(batch)
        for shard, its_batches in by_shard.items():
            self._send(self._shard_links[shard], its_batches)

    def _send(self, link: RedisLink, batches: list[_Batch]) -> None:
        replies = [partial(self._on_reply, link, batch) for batch in batches]
        link.send(b"".join(map(self._packed, batches)), replies)

    def _packed(self, batch: _Batch) -> bytes:
        key = b"admission:{%b}" % batch.tag.encode()
        specs = _encode([spec.packed for spec in batch.specs])
        operations = _encode(batch.operations)
        return b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            self._call_head,
            len(key),
            key,
            self._config_word,
            len(specs),
            specs,
            len(operations),
            operations,
        )

    def _on_reply(self, link: RedisLink, batch: _Batch, reply: Reply) -> None:
        if isinstance(reply, RedisAway):
            self._failed(batch, reply)
            return
        if isinstance(reply, bytes):
            results, totals = _decode(reply)
            for answer, result in zip(batch.answers, results, strict=True):
                if not isinstance(answer, _Unsent) and not answer.done():
                    # What was admitted under one spec is told one thing, once.
                    admitted = type(result) is int and result < 0
                    answer.set_result(totals[-1 - result] if admitted else result)
        elif str(reply).startswith("NOSCRIPT"):
            # Redis was started anew or its scripts were flushed: told in full it is known again.
            link.send(self._in_full(batch), [partial(self._on_reply, link, batch)])
            return
        elif _passes(str(reply)):
            # Redis cannot do it now: as good as away, and asked again when it is reached anew.
            self._log.warning("Redis cannot admit", reason=str(reply))
            self._failed(batch, RedisAway(str(reply)))
            link.abort()
            return
        else:
            self._failed(batch, reply)
        self._in_flight -= 1
        if self._in_flight == 0:
            if self._timer is not None:
                self._timer.cancel()
            if self._waiting or self._more:
                self._wake()

    def _in_full(self, batch: _Batch) -> bytes:
        return command(
            b"EVAL",
            self._script,
            b"1",
            b"admission:{%b}" % batch.tag.encode(),
            self._config,
            _encode([spec.packed for spec in batch.specs]),
            _encode(batch.operations),
        )

    def _failed(self, batch: _Batch, reply: Reply) -> None:
        if not isinstance(reply, RedisAway):
            self._log.error("Redis refused admission's script", reason=str(reply))
        kept = []
        for answer in batch.answers:
            if isinstance(answer, _Unsent):
                kept.append(answer)
            elif not answer.done():
                answer.set_exception(RedisAway(str(reply)))
        if kept and isinstance(reply, RedisAway):
            self._keep_unsent(kept)

    def _keep_unsent(self, operations: list[_Unsent]) -> None:
        room = MAX_UNSENT - len(self.unsent)
        self.dropped += max(0, len(operations) - room)
        self.unsent.extend(operations[: max(0, room)])

    def _overdue(self, due: float, link: RedisLink) -> None:
        if not self._in_flight or link is not self._link:
            return
        loop = asyncio.get_running_loop()
        late_s = loop.time() - due
        if late_s > self._budget_s / 5:
            # It was this process that was late: the answer may lie in the socket, not read yet.
            self._timer = loop.call_later(self._budget_s, self._overdue, loop.time() + self._budget_s, link)
            return
        self._log.warning("Redis is late, admission goes on without it", budget_s=self._budget_s)
        link.abort()

    def _on_lost(self) -> None:
        """A connection is gone. In a cluster all are given up for one: the others may know who took its place."""
        link = self._link
        if link is None:
            return
        self._link = None
        self._in_flight = 0
        self.times_away += 1
        if self._timer is not None:
            self._timer.cancel()
        batches = [*self._more, *self._waiting.values()]
        self._more, self._waiting = [], OrderedDict()
        for batch in batches:
            self._failed(batch, RedisAway("Redis went away"))
        links, self._shard_links, self._shards = [link, *self._shard_links], [], None
        for one in links:
            one.abort()
        self._down.set()
        self.on_down()

    async def _open(self) -> None:
        opened: list[RedisLink] = []
        try:
            found = await self._connect(opened)
        except RedisAway:
            for one in opened:
                one.abort()
            raise
        self._link, self._shards, self._shard_links = opened[0], found, opened[1:]
        self._in_flight = 0
        self._down.clear()
        self.up_since = asyncio.get_running_loop().time()
        self.on_up()
        unsent, self.unsent = self.unsent, []
        for operation in unsent:
            self.tell(operation.tag, operation.spec, operation.make)

    async def _connect(self, opened: list[RedisLink]) -> Shards | None:
        """Connects to Redis, and in a cluster to everybody who keeps slots. Raises RedisAway."""
        link = await connect(self._address, timeout_s=CONNECT_TIMEOUT_S, on_lost=self._on_lost)
        opened.append(link)
        found = await shards(link, self._address, timeout_s=CONNECT_TIMEOUT_S)
        for host, port in found.addresses if found is not None else ():
            address = replace(self._address, host=host, port=port, unix_path="")
            opened.append(await connect(address, timeout_s=CONNECT_TIMEOUT_S, on_lost=self._on_lost))
        if not all(one.usable for one in opened):
            raise RedisAway("lost while connecting")
        return found

    async def _keep(self) -> None:
        while True:
            if self._link is not None:
                await self._down.wait()
            await asyncio.sleep(PROBE_S)
            with contextlib.suppress(RedisAway):
                await self._open()
                self._log.info("Redis answers again")

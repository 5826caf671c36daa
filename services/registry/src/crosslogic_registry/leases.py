"""Leases in Redis: the last word of each node, so that any replica knows of nodes whose streams end at another.

`registry:node:{id}` holds a serialised Node with its id, load and last heartbeat, and ends by itself. A lease is news,
never a lock and never needed: Redis that is away or hangs costs 100 ms a round, and the fleet goes on without.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.resources import files

from google.protobuf.message import DecodeError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_registry.fleet import Fleet
from crosslogic_registry.gateways import Gateways
from crosslogic_registry.members import Member
from crosslogic_registry.observations import Observations
from crosslogic_registry.ports import LeaseBook

ROUND_EVERY_S = 1.0
DOUBTFUL_S = 7.0
"""After so long without a heartbeat a node's stream may be a dead one, and the node at another replica."""
_KEYS_A_TRIP = 500
TUNNELS_KEY = "registry:tunnels"
"""A hash: by replica, the tunnels of the gateway workers whose streams end there, as JSON with when that ends."""
TUNNELS_MS = 10_000


def lease_key(node_id: str) -> str:
    """Where a node's lease is."""
    return f"registry:node:{node_id}"


class RedisLeases:
    """The lease book in Redis."""

    def __init__(self, redis: Redis, *, ttl_s: float, budget_s: float = 1.0) -> None:
        """A lease ends `ttl_s` after it was written; no call takes longer than `budget_s`."""
        self._redis = redis
        self._ttl_ms = round(ttl_s * 1000)
        self._budget_s = budget_s
        lua = files("crosslogic_registry").joinpath("lua/release_lease.lua").read_text(encoding="utf-8")
        self._release = redis.register_script(lua)

    async def write(self, leases: Mapping[str, bytes]) -> None:
        """Writes leases by node id."""
        items = list(leases.items())
        async with self._within_budget():
            for start in range(0, len(items), _KEYS_A_TRIP):
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for node_id, value in items[start : start + _KEYS_A_TRIP]:
                        pipeline.set(lease_key(node_id), value, px=self._ttl_ms)
                    await pipeline.execute()

    async def read(self, node_ids: Sequence[str]) -> dict[str, bytes]:
        """The leases of these nodes that have not ended."""
        found: dict[str, bytes] = {}
        async with self._within_budget():
            for start in range(0, len(node_ids), _KEYS_A_TRIP):
                asked = node_ids[start : start + _KEYS_A_TRIP]
                values = await self._redis.mget([lease_key(node_id) for node_id in asked])
                found.update({id_: value for id_, value in zip(asked, values, strict=True) if isinstance(value, bytes)})
        return found

    async def offer_tunnels(self, origin: str, addresses: Sequence[str]) -> list[str]:
        """Tells the other replicas which tunnels gateways offer here; all that are offered anywhere now."""
        async with self._within_budget():
            now_ms = await self._now_ms()
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.hset(TUNNELS_KEY, origin, json.dumps({"until_ms": now_ms + TUNNELS_MS, "at": list(addresses)}))
                pipeline.pexpire(TUNNELS_KEY, 10 * TUNNELS_MS)
                pipeline.hgetall(TUNNELS_KEY)
                offers = (await pipeline.execute())[-1]
            ended = [key for key, offer in offers.items() if json.loads(offer)["until_ms"] < now_ms]
            if ended:
                await self._redis.hdel(TUNNELS_KEY, *ended)
        return sorted({each for key, offer in offers.items() if key not in ended for each in json.loads(offer)["at"]})

    async def _now_ms(self) -> int:
        seconds, micros = await self._redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def release(self, leases: Mapping[str, bytes]) -> None:
        """Ends leases early, each only if it is still the one given."""
        async with self._within_budget():
            for node_id, value in leases.items():
                await self._release(keys=[lease_key(node_id)], args=[value])

    @contextlib.asynccontextmanager
    async def _within_budget(self) -> AsyncIterator[None]:
        with _redis_errors():
            async with asyncio.timeout(self._budget_s):
                yield


@contextlib.contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, TimeoutError, OSError) as error:
        raise CodedError(ErrorCode.UNAVAILABLE, private=f"redis: {error!r}") from error


class LeaseRounds:
    """Writes the leases of nodes heard of here, and reads those of all others, once a second."""

    def __init__(
        self, *, fleet: Fleet, book: LeaseBook, observations: Observations, gateways: Gateways, origin: str
    ) -> None:
        """`gateways` hears of tunnels at other replicas; `origin` names this one to them."""
        self._fleet = fleet
        self._gateways = gateways
        self._origin = origin
        self._book = book
        self._observations = observations
        self._log = get_logger(__name__)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Makes its rounds for as long as the block lasts."""
        task = asyncio.create_task(self._forever(), name="leases")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def round(self) -> bool:
        """One round. False: the book is away, and the fleet is blind to what other replicas hear."""
        try:
            await self._write()
            await self._read()
            self._gateways.tunnels_elsewhere(await self._book.offer_tunnels(self._origin, self._gateways.own_tunnels))
        except CodedError as error:
            self._observations.lease_failures.inc()
            if not self._fleet.blind:
                self._log.warning("leases are away, going on without", reason=error.private or error.public)
            self._fleet.blind = True
            return False
        if self._fleet.blind:
            self._log.info("leases are back")
        self._fleet.blind = False
        return True

    async def _write(self) -> None:
        due = [member for member in self._fleet.members() if member.lease_due and member.session is not None]
        broken = [member for member in self._fleet.members() if member.link == "broken" and member.lease]
        fresh = {
            member.node.id: pb.Node(
                id=member.node.id, load=member.node.load, last_heartbeat_time=member.node.last_heartbeat_time
            ).SerializeToString()
            for member in due
        }
        if fresh:
            await self._book.write(fresh)
        for member in due:
            member.lease_due = False
            member.lease = fresh[member.node.id]
        if broken:
            released = {member.node.id: member.lease for member in broken}
            for member in broken:
                member.lease = b""
            await self._book.release(released)

    async def _read(self) -> None:
        elsewhere = [
            member for member in self._fleet.members() if member.status != "dead" and self._may_be_away(member)
        ]
        if not elsewhere:
            return
        found = await self._book.read([member.node.id for member in elsewhere])
        for member in elsewhere:
            if not self._may_be_away(member):
                continue  # it came back here meanwhile
            lease = found.get(member.node.id)
            if lease is None:
                if member.link == "elsewhere":
                    self._fleet.lost_elsewhere(member)
            elif lease != member.lease:
                member.lease = lease
                with contextlib.suppress(DecodeError):
                    self._fleet.heard_elsewhere(member, pb.Node.FromString(lease))

    def _may_be_away(self, member: Member) -> bool:
        """Nodes that stream elsewhere; also those whose stream here is open but has long brought nothing."""
        return member.session is None or self._fleet.silent_s(member) > DOUBTFUL_S

    async def _forever(self) -> None:
        while True:
            await self.round()
            await asyncio.sleep(ROUND_EVERY_S)

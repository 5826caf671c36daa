"""One connection to Redis on which commands are sent without waiting for the answers before.

The usual client answers one task a command. Here one write carries what has gathered, and each answer is a callback:
that is what makes admission cheap enough for every request (docs/adr/0013).
"""

import asyncio
import ssl
from binascii import crc_hqx
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hiredis

Reply = Any
"""What Redis answers: bytes, int, list, None or an exception."""
OnReply = Callable[[Reply], None]

DEFAULT_PORT = 6379
SLOTS = 16384
MAX_SHARDS = 256


class RedisAway(Exception):  # noqa: N818  # it is a state, and is caught by name
    """Redis did not answer, or not in time."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is and how to log in."""

    host: str
    port: int
    unix_path: str
    database: int
    username: str = field(repr=False)
    password: str = field(repr=False)
    tls: bool

    @classmethod
    def from_url(cls, url: str) -> "RedisAddress":
        """Reads `redis://`, `rediss://` and `unix://`. Raises ValueError for what it cannot read."""
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("a Redis address begins with redis://, rediss:// or unix://")
        return cls(
            host=parts.hostname or "localhost",
            port=parts.port or DEFAULT_PORT,
            unix_path=parts.path if parts.scheme == "unix" else "",
            database=int(parts.path.strip("/") or 0) if parts.scheme != "unix" else 0,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            tls=parts.scheme == "rediss",
        )


def command(*words: bytes) -> bytes:
    """A command as it goes over the wire."""
    parts = [b"*%d\r\n" % len(words)]
    parts.extend(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return b"".join(parts)


class RedisLink(asyncio.Protocol):
    """A connection. `send` after `connect`, until `on_lost` was called."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        """`on_lost` is called once, when the connection is gone; then what was not answered fails."""
        self._on_lost = on_lost
        self._reader = hiredis.Reader()
        self._waiting: deque[OnReply] = deque()
        self._transport: asyncio.Transport | None = None
        self._lost = False

    @property
    def usable(self) -> bool:
        """Whether commands may be sent."""
        return self._transport is not None and not self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The event loop's."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """The event loop's: answers come in the order of the commands."""
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                self._waiting.popleft()(reply)
        except (hiredis.ProtocolError, IndexError):
            self.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """The event loop's."""
        if self._lost:
            return
        self._lost = True
        self._on_lost()
        while self._waiting:
            self._waiting.popleft()(RedisAway("the connection is gone"))

    def send(self, packed: bytes, on_replies: Sequence[OnReply]) -> None:
        """Sends commands; each answer goes to its callback. Raises RedisAway when the connection is gone."""
        if self._transport is None or self._lost:
            raise RedisAway("not connected")
        self._waiting.extend(on_replies)
        self._transport.write(packed)

    def abort(self) -> None:
        """Gives the connection up: what was not answered fails now."""
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)


async def _ask(link: RedisLink, *words: bytes) -> Reply:
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def take(reply: Reply) -> None:
        if not answered.done():
            answered.set_result(reply)

    link.send(command(*words), [take])
    reply = await answered
    if isinstance(reply, Exception):
        raise RedisAway(str(reply)) from reply
    return reply


@dataclass(frozen=True, slots=True)
class Shards:
    """Who keeps which slots of a Redis Cluster."""

    addresses: tuple[tuple[str, int], ...]
    of_slot: bytes
    """The address of each slot, by its place in `addresses`."""

    def of(self, tag: str) -> int:
        """Who keeps the keys with a hash tag: a place in `addresses`."""
        return self.of_slot[crc_hqx(tag.encode(), 0) % SLOTS]


async def shards(link: RedisLink, address: RedisAddress, *, timeout_s: float) -> Shards | None:
    """The cluster that a connection leads into; None: a Redis that stands alone. Raises RedisAway."""
    try:
        async with asyncio.timeout(timeout_s):
            ranges = await _ask(link, b"CLUSTER", b"SLOTS")
    except TimeoutError as error:
        raise RedisAway("no answer") from error
    except RedisAway as error:
        if isinstance(error.__cause__, hiredis.ReplyError):
            return None
        raise
    places: dict[tuple[str, int], int] = {}
    of_slot = bytearray(SLOTS)
    covered = 0
    for first, last, primary, *_ in ranges:
        where = ((primary[0] or b"").decode() or address.host, primary[1])
        place = places.setdefault(where, len(places))
        if place >= MAX_SHARDS:
            raise RedisAway("the cluster is too large")
        of_slot[first : last + 1] = bytes([place]) * (last + 1 - first)
        covered += last + 1 - first
    if covered < SLOTS:
        raise RedisAway("the cluster does not keep every slot")
    return Shards(tuple(places), bytes(of_slot))


async def connect(address: RedisAddress, *, timeout_s: float, on_lost: Callable[[], None]) -> RedisLink:
    """Connects and logs in. Raises RedisAway when that takes longer than `timeout_s` or is refused."""
    loop = asyncio.get_running_loop()
    link = RedisLink(on_lost)
    try:
        async with asyncio.timeout(timeout_s):
            if address.unix_path:
                await loop.create_unix_connection(lambda: link, address.unix_path)
            else:
                secured = ssl.create_default_context() if address.tls else None
                await loop.create_connection(lambda: link, address.host, address.port, ssl=secured)
            if address.password:
                words = (address.username, address.password) if address.username else (address.password,)
                await _ask(link, b"AUTH", *(word.encode() for word in words))
            if address.database:
                await _ask(link, b"SELECT", b"%d" % address.database)
            await _ask(link, b"PING")
    except (OSError, TimeoutError, RedisAway) as error:
        link.abort()
        raise RedisAway(f"{type(error).__name__}: {error}") from error
    return link

"""A TCP proxy that can go silent: what a stopped process or a lost route looks like from the other side."""

import asyncio
import functools
import random
from dataclasses import dataclass
from typing import Final, Literal, Self

from tests.fakes.connections import Connections, forward

READ_BYTES: Final = 65_536
SLOW_READ_S: Final = 0.05
"""A slow reader takes its share so often."""
LATE_S: Final = (0.2, 1.0)
"""What a lost segment costs: TCP sends it again after its retransmission time-out."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What befalls the bytes of one direction. Of a stream of TCP, lost segments are bytes that come late."""

    delay_s: float = 0.0
    """Everything comes so much later."""
    lost: float = 0.0
    """Share of reads, 0 to 1, that were lost once on their way."""
    cut: bool = False
    """Nothing passes; connections stay."""
    bytes_per_s: float = 0.0
    """Whoever is sent to takes no more than this. 0: whatever comes."""


CALM: Final = Weather()


class TcpProxy:
    """Forwards to `host`:`port`, until it is told to be silent, to refuse, or to cut what it has.

    `weather` says what befalls bytes on their way `onward` and `back`; it may be changed at any time.
    """

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._talking = asyncio.Event()
        self._talking.set()
        self._connections = Connections()
        self.port = 0
        self.weather: dict[Literal["onward", "back"], Weather] = {"onward": CALM, "back": CALM}
        self.passed_bytes = 0
        """Both ways together."""
        self._chance = random.Random(port)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.cut()

    def silence(self) -> None:
        """From now on nothing passes, either way."""
        self._talking.clear()

    def speak(self) -> None:
        """What was held passes, and all that follows."""
        self._talking.set()

    async def cut(self) -> None:
        """Ends the connections there are."""
        await self._connections.cut()

    def refuse(self) -> None:
        """Accepts no more."""
        self._server.close()

    async def accept_again(self) -> None:
        """Accepts at the port it had."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._connections.one(writer):
            await self._talking.wait()
            await forward(
                reader,
                writer,
                self._to,
                onward=functools.partial(self._pump, way="onward"),
                back=functools.partial(self._pump, way="back"),
            )

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Literal["onward", "back"]
    ) -> None:
        while data := await reader.read(self._read_bytes(way)):
            await self._talking.wait()
            await self._suffer(way, len(data))
            self.passed_bytes += len(data)
            writer.write(data)
            await writer.drain()

    def _read_bytes(self, way: Literal["onward", "back"]) -> int:
        rate = self.weather[way].bytes_per_s
        return max(int(rate * SLOW_READ_S), 1) if rate else READ_BYTES

    async def _suffer(self, way: Literal["onward", "back"], byte_count: int) -> None:
        while self.weather[way].cut:
            await asyncio.sleep(SLOW_READ_S)
        weather = self.weather[way]
        late_s = weather.delay_s
        if weather.lost and self._chance.random() < weather.lost:
            late_s += self._chance.uniform(*LATE_S)
        if weather.bytes_per_s:
            late_s += byte_count / weather.bytes_per_s
        if late_s:
            await asyncio.sleep(late_s)

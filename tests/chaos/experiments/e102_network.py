"""102: delay, loss, a cut of one way and a slow reader between each pair of processes: nothing hangs, nothing is lost.

Each pair talks through a proxy of its own. While one pair has one fault, requests go on; each must be answered, well or
with a clean error, within its deadline, and when the fault is over all are answered well. What was delivered is billed
once, and the gateway holds no more memory than before.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from crosslogic_dev.processes import resident_bytes
from crosslogic_dev.suite import Suite
from tests.chaos.checker import check
from tests.chaos.clients import Asked
from tests.chaos.world import IDLE_TIMEOUT_S, World
from tests.fakes.tcp_proxy import CALM, TcpProxy, Weather

SECONDS: Final = 8.0
"""Of each fault: longer than the gateway waits for a silent node."""
A_SECOND: Final = 8
SLOWEST_S: Final = 20.0
"""Of any request: some waits of the gateway's, one after the other, on a machine that others use too."""
WELL_WITHIN_S: Final = 40.0
"""After a fault: connections that hang are found by their keepalive (15 s), and are made anew with a backoff."""
USED_WITHIN_S: Final = 90.0
AT_ONCE: Final = 24
USED_BYTES: Final = 500
"""More than keepalive has to say."""
GROWTH_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pair:
    """Who connects to whom, and by which setting it learns where."""

    name: str
    caller: str
    setting: str
    to: str
    """A process of the suite, `redis` or `postgres`."""


def _service(caller: str, to: str) -> Pair:
    return Pair(f"{caller}-{to}", caller, f"CROSSLOGIC_{to.upper()}_TARGET", to)


PAIRS: Final = (
    _service("gateway", "scheduler"),
    _service("gateway", "identity"),
    _service("gateway", "registry"),
    _service("gateway", "accountant"),
    _service("gateway", "billing"),
    Pair("gateway-redis", "gateway", "REDIS_URL", "redis"),
    Pair("gateway-agent", "node_agent-1", "CROSSLOGIC_ADVERTISE", "node_agent-1"),
    Pair("agent-registry", "node_agent-2", "CROSSLOGIC_REGISTRY_TARGET", "registry"),
    _service("scheduler", "registry"),
    _service("registry", "accountant"),
    Pair("registry-redis", "registry", "REDIS_URL", "redis"),
    Pair("registry-postgres", "registry", "DATABASE_URL", "postgres"),
    Pair("accountant-postgres", "accountant", "DATABASE_URL", "postgres"),
    Pair("identity-redis", "identity", "REDIS_URL", "redis"),
    Pair("identity-postgres", "identity", "DATABASE_URL", "postgres"),
)
FAULTS: Final = MappingProxyType[str, tuple[Weather, Weather]](
    {
        "delay": (Weather(delay_s=0.1), Weather(delay_s=0.1)),
        "loss": (Weather(lost=0.1), Weather(lost=0.1)),
        "cut onward": (Weather(cut=True), CALM),
        "cut back": (CALM, Weather(cut=True)),
        "slow server": (Weather(bytes_per_s=2_000), CALM),
        "slow client": (CALM, Weather(bytes_per_s=2_000)),
    }
)


async def run(world: World) -> None:
    """Every pair with every fault."""
    await try_network(world, PAIRS, tuple(FAULTS))


async def try_network(world: World, pairs: Sequence[Pair], faults: Sequence[str], *, seconds: float = 0.0) -> None:
    """Some pairs with some faults, each for that long. 0: as the experiment is meant."""
    seconds = seconds or max(SECONDS * world.size, IDLE_TIMEOUT_S + 1)
    async with _through_proxies(world, pairs) as proxies:
        for pair in pairs:
            for fault in faults:
                await _one(world, pair, fault, proxies[pair.name], seconds)
    world.wait_active()


async def _one(world: World, pair: Pair, fault: str, proxy: TcpProxy, seconds: float) -> None:
    gateway = world.suite.pid("gateway")
    assert gateway is not None
    if pair.to.startswith("node_agent"):
        await _in_use(world, proxy, f"{pair.name}, before {fault}")
    before = resident_bytes(gateway)
    asked: list[Asked] = []
    running: list[asyncio.Task[Asked]] = []
    proxy.weather["onward"], proxy.weather["back"] = FAULTS[fault]
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            asked.append(world.a_request(len(asked), max_tokens=world.chance.randrange(2, 30)))
            running.append(asyncio.create_task(world.client.ask(asked[-1])))
            await asyncio.sleep(1 / A_SECOND)
        # Those that began last have all their time with the fault too.
        await asyncio.wait(running, timeout=SLOWEST_S)
    finally:
        proxy.weather["onward"] = proxy.weather["back"] = CALM
    hung = sum(not task.done() for task in running)
    await asyncio.gather(*running)
    told = f"{pair.name}, {fault}"
    slowest_s = max(each.took_s for each in asked)
    assert not hung, f"{told}: {hung} requests hung"
    assert slowest_s < SLOWEST_S, f"{told}: a request took {slowest_s:.1f} s"
    grown = resident_bytes(gateway) - before
    assert grown < GROWTH_BYTES, f"{told}: the gateway grew by {grown >> 20} MiB"
    failed = [each for each in asked if not each.complete]
    well_s = await _well_again(world, told)
    print(f"{told}: {len(asked)} requests, {len(failed)} failed, slowest {slowest_s:.2f} s, well {well_s:.1f} s after")
    await asyncio.to_thread(check, world, asked, may_fail=True)


async def _in_use(world: World, proxy: TcpProxy, told: str) -> None:
    """Returns once requests pass: a node that the fault before made suspect is tried again after a while.

    So many at a time that no node is left out: with little to do, all would go to those with the better record.
    """
    before, until = proxy.passed_bytes, time.monotonic() + USED_WITHIN_S
    while proxy.passed_bytes < before + USED_BYTES:
        await asyncio.gather(*(world.client.ask(world.a_request(number, max_tokens=2)) for number in range(AT_ONCE)))
        assert time.monotonic() < until, f"{told}: nobody talks"


async def _well_again(world: World, told: str) -> float:
    """How long it took until five requests in a row were answered well, in seconds."""
    began = time.monotonic()
    row: list[Asked] = []
    while len(row) < 5:
        each = await world.client.ask(world.a_request(len(row), max_tokens=2))
        row = [*row, each] if each.complete and not each.faults() else []
        assert time.monotonic() - began < WELL_WITHIN_S, f"{told}: requests still fail: {each.status} {each.error}"
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def _through_proxies(world: World, pairs: Sequence[Pair]) -> AsyncIterator[dict[str, TcpProxy]]:
    """Each caller is started again with proxies where its neighbours were, and once more without."""
    suite = world.suite
    async with contextlib.AsyncExitStack() as stack:
        proxies: dict[str, TcpProxy] = {}
        settings: dict[str, dict[str, str]] = {}
        for pair in pairs:
            host, port = _place(suite, pair)
            proxy = proxies[pair.name] = await stack.enter_async_context(TcpProxy(host, port))
            settings.setdefault(pair.caller, {})[pair.setting] = _setting(suite, pair, proxy.port)
        try:
            for caller, own in settings.items():
                suite.retune(caller, **own)
                await asyncio.to_thread(suite.restart, caller)
            await _well_again(world, "before")
            yield proxies
        finally:
            for caller in settings:
                suite.retune(caller)
                await asyncio.to_thread(suite.restart, caller)


def _place(suite: Suite, pair: Pair) -> tuple[str, int]:
    if pair.setting.endswith("_URL"):
        url = urlsplit(_url(suite, pair))
        assert url.hostname is not None
        assert url.port is not None
        return url.hostname, url.port
    host, _, port = suite.target(pair.to).rpartition(":")
    return host, int(port)


def _setting(suite: Suite, pair: Pair, port: int) -> str:
    if not pair.setting.endswith("_URL"):
        return f"127.0.0.1:{port}"
    url = urlsplit(_url(suite, pair))
    return url._replace(netloc=f"{url.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()


def _url(suite: Suite, pair: Pair) -> str:
    return suite.redis_url if pair.to == "redis" else suite.database_url

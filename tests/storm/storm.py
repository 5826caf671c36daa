"""A storm: many requests while processes die at random, and then one question: does everybody count the same?"""

import asyncio
import contextlib
import math
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from crosslogic.billing.v1 import billing_pb2 as billing_pb
from crosslogic.billing.v1 import billing_pb2_grpc as billing_rpc
from crosslogic_common.tls import Channels
from crosslogic_dev.suite import Suite
from tests.fakes.e2e_load import Load, Seen
from tests.fakes.stripe_server import KEY, FakeStripe, Fault
from tests.storm.totals import Auditor, Line, disagreements

ROOT = Path(__file__).parents[2]
VICTIMS = ("gateway", "accountant", "billing", "postgres", "stripe")
NODES = 2
WITNESS_GRACE_S = 2.0
IN_FLIGHT = 48
SAMPLE = 20_000
"""Of so many requests it is checked one by one that what the client was told is what it is charged for."""
SLOWEST = 5
DEATHS = 100_000
BEFORE_S = 10.0
"""Deaths so long before a client's wait are told with it."""
STRIPE_AWAY_S = 1.0
RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class Wait:
    """What one client waited for."""

    seconds: float
    began_s: float
    """From the storm's begin."""
    what: str
    """Request id, status and error."""


@dataclass
class Report:
    """What happened."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    complete: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """What clients saw instead of an answer."""
    told: "deque[tuple[str, tuple[int, int]]]" = field(default_factory=lambda: deque(maxlen=SAMPLE))
    """Request and tokens, as clients were told in complete answers."""
    slowest: list["Wait"] = field(default_factory=list)
    """The longest waits of clients, longest first; at most `SLOWEST`."""
    deaths: "deque[tuple[float, str]]" = field(default_factory=lambda: deque(maxlen=DEATHS))
    """When which process was killed and was back, in seconds from the storm's begin."""
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    lines: list[Line] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    """Requests that are charged for something else than their clients were told."""
    billed_twice: int = 0

    def waited(self, seen: Seen, *, began: float) -> None:
        """Keeps the longest waits."""
        now = time.monotonic()
        if len(self.slowest) == SLOWEST and now - began <= self.slowest[-1].seconds:
            return
        what = f"{seen.request_id or 'no id'} {seen.status} {'streamed ' if seen.stream else ''}{seen.error}"
        self.slowest.append(Wait(now - began, began - self.began, what))
        self.slowest.sort(key=lambda wait: -wait.seconds)
        del self.slowest[SLOWEST:]

    def around(self, wait: Wait) -> str:
        """Who died and came back while that client waited."""
        return ", ".join(
            f"{what} {at - wait.began_s:+.1f} s"
            for at, what in self.deaths
            if wait.began_s - BEFORE_S <= at <= wait.began_s + wait.seconds
        )

    def problems(self) -> list[str]:
        """Why the storm is lost; empty if it is weathered."""
        found = disagreements(self.lines)
        if self.billed_twice:
            found.append(f"{self.billed_twice} requests count other than once")
        if self.wrong:
            found.append(f"{len(self.wrong)} bills are not what clients were told: {list(self.wrong.items())[:3]}")
        return found


@contextlib.asynccontextmanager
async def storm_suite(*, step_ms: float) -> AsyncIterator[tuple[Suite, FakeStripe]]:
    """A suite whose Stripe is the tests'; what it is sent stays with it, however often it is away."""
    async with FakeStripe().serving() as stripe:
        suite = Suite(
            engine="sim",
            nodes=NODES,
            root=ROOT,
            durable=False,
            sim_arguments=("--step-ms", str(step_ms), "--prefill-tps", "0"),
            settings={
                "accountant": {"CROSSLOGIC_WITNESS_GRACE_S": str(WITNESS_GRACE_S)},
                "billing": {
                    "STRIPE_SECRET_KEY": KEY,
                    "STRIPE_BASE_ADDRESS": stripe.base,
                    "CROSSLOGIC_WINDOW_S": "5",
                    "CROSSLOGIC_CLOSE_DELAY_S": "1",
                },
            },
        )
        await asyncio.to_thread(suite.__enter__)
        try:
            await _make_customer(suite)
            yield suite, stripe
        finally:
            await asyncio.to_thread(suite.close)


async def storm(
    suite: Suite,
    stripe: FakeStripe,
    *,
    requests: int,
    seed: int,
    kills: Sequence[str] = (),
    pause_s: float = 0.5,
    seconds: float = math.inf,
    spread: int = 12,
) -> Report:
    """Asks until so many answers are complete, or the time is over, while processes die by chance.

    With `kills` also until all of these have died in their order. Answers have 2 tokens and up to `spread - 1` more.
    """
    report = Report(seed)
    async with Load(suite, max_tokens=2, spread=spread) as load:
        weather = asyncio.create_task(_weather(suite, stripe, random.Random(seed), list(kills), report, pause_s))

        def enough() -> bool:
            if time.monotonic() - report.began > seconds:
                return True
            return report.complete >= requests and (weather.done() or not kills)

        asking = [asyncio.create_task(_ask(load, report, enough)) for _ in range(IN_FLIGHT)]
        try:
            await asyncio.gather(*asking)
            if kills:
                await weather
        finally:
            for task in (weather, *asking):
                task.cancel()
            await asyncio.gather(weather, *asking, return_exceptions=True)
    await asyncio.to_thread(_all_up, suite)
    stripe.down = False
    stripe.faults.clear()
    auditor = Auditor(suite, stripe)
    await asyncio.to_thread(auditor.wait_settled, report.asked)
    report.lines = await asyncio.to_thread(auditor.lines)
    report.billed_twice = await asyncio.to_thread(auditor.billed_twice)
    charged = await asyncio.to_thread(auditor.tokens_of, [request_id for request_id, _ in report.told])
    report.wrong = {
        request_id: f"told {tokens}, charged {charged.get(request_id)}"
        for request_id, tokens in report.told
        if charged.get(request_id) != tokens
    }
    report.seconds = time.monotonic() - report.began
    return report


async def _ask(load: Load, report: Report, enough: Callable[[], bool]) -> None:
    while not enough():
        number = report.asked
        report.asked += 1
        began = time.monotonic()
        seen = await load.one(number, Seen(stream=number % 2 == 0))
        report.waited(seen, began=began)
        if seen.complete:
            report.complete += 1
            report.told.append((seen.request_id, seen.tokens))
        else:
            report.failed[str(seen.status) if seen.status >= 400 else "cut"] += 1
            # The gateway is away, or refuses: a client that comes again at once would only be in the way.
            await asyncio.sleep(RETRY_S)


async def _weather(
    suite: Suite, stripe: FakeStripe, chance: random.Random, kills: list[str], report: Report, pause_s: float
) -> None:
    given = bool(kills)
    while kills or not given:
        await asyncio.sleep(pause_s * chance.uniform(0.5, 1.5))
        victim = kills.pop(0) if given else chance.choice(VICTIMS)
        if victim == "stripe":
            await _stripe_away(stripe, chance)
        else:
            await asyncio.to_thread(suite.kill, victim)
            report.deaths.append((time.monotonic() - report.began, f"{victim} killed"))
            await asyncio.to_thread(suite.start, victim)
            report.deaths.append((time.monotonic() - report.began, f"{victim} back"))
        report.kills[victim] += 1


async def _stripe_away(stripe: FakeStripe, chance: random.Random) -> None:
    """It is away for a while; afterwards some answers are lost though the event was taken."""
    stripe.down = True
    await asyncio.sleep(STRIPE_AWAY_S * chance.uniform(0.5, 1.5))
    stripe.down = False
    stripe.faults.extend(Fault(chance.choice(("cut", "500", "saved_500")), commits=True) for _ in range(3))


def _all_up(suite: Suite) -> None:
    for name in ("postgres", "accountant", "billing", "gateway"):
        if suite.pid(name) is None:
            suite.start(name)


async def _make_customer(suite: Suite) -> None:
    """The seeded organisation pays from its first token."""
    channels = Channels(suite.tls())
    try:
        stub: billing_rpc.BillingServiceAsyncStub = billing_rpc.BillingServiceStub(
            channels.service("billing", suite.target("billing"))
        )
        terms = billing_pb.Terms(free_tokens=0)
        month = datetime.now(UTC).strftime("%Y-%m")
        await stub.SetTerms(billing_pb.SetTermsRequest(org_id=suite.org_id, from_month=month, terms=terms), timeout=30)
        await stub.LinkCustomer(billing_pb.LinkCustomerRequest(org_id=suite.org_id, name="Storm"), timeout=30)
    finally:
        await channels.close()

"""What an organisation with reserved capacity notices of another one that sends twenty times what the fleet can do.

    .venv/bin/python -m benchmarks.reserved_capacity [--seconds 30] [--times 20]

Starts a suite with simulated engines, gives one organisation a part of the fleet in capacity units, lets it use exactly
that, first alone and then beside the other one, and prints refusals and latencies of both. CI runs a short version
(tests/e2e/test_e2e_neighbours.py).
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from crosslogic_dev.suite import Suite

NODES = 2
WORKERS = 2
SEQUENCES = 8
STEP_MS = 40
TOKENS = 30
FLEET_TOKENS_PER_S = NODES * SEQUENCES * 1000 // STEP_MS
RESERVED_UNITS = FLEET_TOKENS_PER_S // 4
BORROWED_S = 1.5
_UNLIMITED = {"requests_per_minute": 10_000_000}


@dataclass(slots=True)
class Seen:
    """What one organisation's clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    """Of the answers with 200."""
    refusal_s: list[float] = field(default_factory=list)
    """How long refusals took."""
    answered_ids: list[str] = field(default_factory=list)
    """The answers' ids in the ledger."""
    without_retry_after: int = 0
    errors: int = 0

    @property
    def total(self) -> int:
        """Requests."""
        return self.errors + self.statuses.total()

    @property
    def refused(self) -> int:
        """Requests that got anything but an answer."""
        return self.errors + sum(count for status, count in self.statuses.items() if status != 200)

    @property
    def p50_s(self) -> float:
        """Median latency."""
        return statistics.median(self.latencies_s)

    @property
    def p99_s(self) -> float:
        """Nearest rank."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


@dataclass(frozen=True, slots=True)
class Result:
    """Of one trial."""

    alone: Seen
    beside: Seen
    other: Seen

    @property
    def slower(self) -> float:
        """Median latency beside the other organisation over the one alone."""
        return self.beside.p50_s / self.alone.p50_s

    @property
    def least_slower(self) -> float:
        """The same for the quicker quarter beside the other one: what a busy machine leaves to be seen."""
        return sorted(self.beside.latencies_s)[len(self.beside.latencies_s) // 4] / self.alone.p50_s


def fleet(root: Path) -> Suite:
    """The suite that trials run on."""
    return Suite(
        engine="sim",
        nodes=NODES,
        root=root,
        durable=False,
        sim_arguments=("--step-ms", str(STEP_MS), "--prefill-tps", "0", "--max-num-seqs", str(SEQUENCES)),
        settings={
            # What is measured of a simulated engine on a busy machine is chance; what it can do is known here.
            "node_agent": {"CROSSLOGIC_MAX_TOKENS_PER_SEC": str(FLEET_TOKENS_PER_S // NODES)},
            "accountant": {"CROSSLOGIC_WITNESS_GRACE_S": "2"},
            "gateway": {"CROSSLOGIC_WORKERS": str(WORKERS)},
        },
    )


def tenant(
    suite: Suite, name: str, *, reserved: int = 0, overage: str = "shed", requests_per_second: int | None = None
) -> str:
    """A new organisation's key; `reserved` capacity units of the suite's model."""
    plan = "default"
    if reserved:
        plan = f"reserved-{overage}"
        if suite.admin.ask("GET", f"/admin/plans/{plan}").status != 200:
            suite.admin.must(
                "POST", "/admin/plans", {"name": plan, "billing_mode": "reserved", "overage_policy": overage}
            )
            suite.admin.must("PUT", f"/admin/plans/{plan}/terms", {"unit_fee_usd": "1"})
    limits = _UNLIMITED | ({} if requests_per_second is None else {"requests_per_second": requests_per_second})
    body: dict[str, object] = {"name": name, "plan": plan, "limits": limits}
    if reserved:
        body["reserved_capacity"] = {suite.model_name: reserved}
    org_id = suite.admin.must("POST", "/admin/orgs", body)["id"]
    environment = suite.admin.must("POST", f"/admin/orgs/{org_id}/environments", {"name": "e", "limits": _UNLIMITED})
    key = suite.admin.must("POST", f"/admin/environments/{environment['id']}/keys", {"limits": _UNLIMITED})
    return str(key["key"])


class Client:
    """Sends requests at a steady rate, whatever becomes of them."""

    def __init__(
        self, suite: Suite, key: str, session: aiohttp.ClientSession, *, tokens: int = TOKENS, patience_s: float = 2.0
    ) -> None:
        """Each request generates `tokens`, and waits for its turn for `patience_s` at most."""
        self._url = f"{suite.base_url}/v1/completions"
        self._body = {"model": suite.model_name, "prompt": "word", "max_tokens": tokens}
        self._headers = {
            "Authorization": f"Bearer {key}",
            "X-CrossLogic-Queue-Timeout-Ms": str(round(patience_s * 1000)),
        }
        self._session = session

    async def one(self, seen: Seen) -> None:
        """One request."""
        began = time.perf_counter()
        try:
            async with self._session.post(self._url, json=self._body, headers=self._headers) as answer:
                await answer.read()
                took_s = time.perf_counter() - began
                seen.statuses[answer.status] += 1
                if answer.status == 200:
                    seen.latencies_s.append(took_s)
                    seen.answered_ids.append(answer.headers["X-CrossLogic-Request-ID"])
                else:
                    seen.refusal_s.append(took_s)
                    seen.without_retry_after += "Retry-After" not in answer.headers
        except (aiohttp.ClientError, TimeoutError):
            seen.errors += 1

    async def steadily(self, rate_per_s: float, seconds: float, seen: Seen) -> Seen:
        """Sends `rate_per_s` for so many seconds, and waits for the answers."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for number in range(round(rate_per_s * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate_per_s - loop.time()))
                tasks.create_task(self.one(seen))
        return seen


async def trial(suite: Suite, *, seconds: float, times: float) -> Result:
    """The reserved organisation at its rate alone, then beside one that sends `times` what the fleet can do."""
    reserved_key = tenant(suite, "reserved", reserved=RESERVED_UNITS)
    other_key = tenant(suite, "other")
    rate = RESERVED_UNITS / TOKENS
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        mine, other = Client(suite, reserved_key, session), Client(suite, other_key, session)
        alone = await mine.steadily(rate, seconds, Seen())
        others = Seen()
        flood = asyncio.create_task(
            other.steadily(times * FLEET_TOKENS_PER_S / TOKENS, seconds + BORROWED_S + 0.5, others)
        )
        # Meanwhile the other one borrows what is reserved and not used.
        await asyncio.sleep(BORROWED_S)
        beside = await mine.steadily(rate, seconds, Seen())
        await flood
    return Result(alone, beside, others)


def main() -> int:
    """Prints a table; 1 when the reserved organisation noticed anything."""
    parser = argparse.ArgumentParser(prog="benchmarks.reserved_capacity", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--times", type=float, default=20.0, help="of what the fleet can do, sent by the other one")
    args = parser.parse_args()
    with fleet(Path.cwd()) as suite:
        result = asyncio.run(trial(suite, seconds=args.seconds, times=args.times))
    print(f"{NODES} simulated nodes, {FLEET_TOKENS_PER_S} tokens/s in all; {RESERVED_UNITS} CU reserved and used")
    print(f"{'':24}{'answered':>10}{'refused':>10}{'p50 ms':>10}{'p99 ms':>10}")
    for name, seen in (
        ("reserved, alone", result.alone),
        ("reserved, beside", result.beside),
        ("the other", result.other),
    ):
        answered = seen.statuses[200]
        print(f"{name:24}{answered:>10}{seen.refused:>10}{seen.p50_s * 1000:>10.0f}{seen.p99_s * 1000:>10.0f}")
    print(f"median latency x {result.slower:.3f} (to reach: 1.10), refusals {result.beside.refused} (to reach: 0)")
    return 0 if result.slower <= 1.1 and not result.beside.refused else 1


if __name__ == "__main__":
    sys.exit(main())

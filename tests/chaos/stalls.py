"""Where the time goes while a stream stands still: by what its client saw, when nodes died, and the gateway's log.

A stream's stall has four parts: the node is dead and nobody knows yet (`unseen_s`); tries of other nodes that failed as
well (`retries_s`); the node that goes on says again what was held back for stop strings, a token's time for each token
(`said_again_s`); and what else that node takes until its next token, at least until its engine's next step
(`resume_s`). What of a token's own time had passed before the death is no stall.
"""

import json
import time
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from benchmarks.measure import percentile
from tests.chaos.clients import Asked
from tests.chaos.oracle import said_again


@dataclass(frozen=True, slots=True)
class Stall:
    """One stream that stood still because its node died. Times in seconds."""

    request_id: str
    whole_s: float
    unseen_s: float
    retries_s: float
    retries: int
    said_again_s: float
    resume_s: float
    before_first_byte: bool
    """The node died before the stream had begun."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of some times, in seconds."""

    p50: float
    p99: float
    most: float


def percentiles(times: Iterable[float]) -> Percentiles:
    """Zeros when there are none."""
    ordered = sorted(times)
    return Percentiles(*(percentile(ordered, share) for share in (0.5, 0.99, 1.0)))


def stalls(
    asked: Sequence[Asked], failed_over: Collection[str], kills: Sequence[float], *, log: str, step_s: float
) -> list[Stall]:
    """The longest pause of each stream that lost a node.

    `kills` are when nodes were killed (monotonic, in order), `log` is what the gateway printed, `step_s` is a token's
    time.
    """
    failures = _failures(log)
    found = []
    for each in asked:
        if not each.stream or each.request_id not in failed_over:
            continue
        until = each.longest_gap_until
        since = until - each.longest_gap_s
        within = [at for at in failures.get(each.request_id, ()) if since <= at <= until]
        if not within:
            continue
        nth = bisect_right(kills, within[0])
        died_at = max(kills[nth - 1] if nth else since, since)
        roles = each.api == "chat" and each.chunks_before_gap > 0
        again_s = step_s * said_again(each.api, each.body, each.chunks_before_gap - roles)
        found.append(
            Stall(
                request_id=each.request_id,
                whole_s=each.longest_gap_s,
                unseen_s=within[0] - died_at,
                retries_s=within[-1] - within[0],
                retries=len(within),
                said_again_s=again_s,
                resume_s=until - within[-1] - again_s,
                before_first_byte=since <= each.began_at,
            )
        )
    return found


def _failures(log: str) -> dict[str, list[float]]:
    """When the gateway gave up an attempt of each request, on the monotonic clock."""
    to_monotonic = time.monotonic() - time.time()
    failures: dict[str, list[float]] = {}
    for line in log.splitlines():
        if '"attempt failed"' not in line:
            continue
        told = json.loads(line)
        at = datetime.fromisoformat(told["timestamp"]).timestamp()
        failures.setdefault(told["request_id"], []).append(at + to_monotonic)
    return failures

"""What each link of the chain says was used, side by side: engines, clients, ledger, rollups, books, outbox, Stripe."""

import re
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from crosslogic_dev.suite import Suite
from tests.fakes.stripe_server import FakeStripe

STANDSTILL_S = 120.0
"""If nothing has become less for so long, it will not."""
SETTLED_S = 0.01
"""Longer than a request takes from the gateway to Stripe, where many are on the way."""
LOOK_S = 0.3
BACK = "a process that is not back"
_TOKENS = re.compile(r'crosslogic_node_tokens_total\{kind="(?P<kind>\w+)"\} (?P<value>\S+)')
_SUMS: LiteralString = (
    "SELECT sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost_picodollars) FROM ledger."
)
_TABLES: Mapping[str, LiteralString] = {
    "usage ledger": "usage_records",
    "hourly rollups": "usage_hourly",
    "daily rollups": "usage_daily",
}
# The gateway died, and with it the answer: its client pays nothing. Where a gateway lived, its word stands.
_UNPAID = """
    SELECT sum(prompt_tokens), sum(completion_tokens) FROM (
        SELECT prompt_tokens, completion_tokens FROM ledger.unpaid_witnesses w
        WHERE NOT EXISTS (SELECT FROM ledger.usage_records r WHERE r.request_id = w.request_id)
        UNION ALL
        SELECT witness_prompt_tokens - gateway_prompt_tokens, witness_completion_tokens - gateway_completion_tokens
        FROM ledger.witness_differences
    ) explained
"""
_BOOKS = "SELECT -sum(balance_picodollars) FROM ledger.accounts WHERE kind = 5"
_MONTHS = "SELECT sum(all_tokens), sum(all_tokens * price) FROM billing.month_usage"
_OUTBOX = "SELECT event_name, sum(value) FROM billing.meter_events GROUP BY 1 ORDER BY 1"
_WAITING: Mapping[str, LiteralString] = {
    "witnesses to compare": "SELECT count(*) FROM ledger.witnesses",
    "rows to roll up": "SELECT h.last_sequence - r.sequence FROM ledger.usage_head h, ledger.readers r "
    "WHERE r.name = 'rollups'",
    "rows to bill": "SELECT h.last_sequence - c.sequence FROM ledger.usage_head h, billing.ledger_cursor c "
    "WHERE c.name = 'usage'",
    "windows to close": "SELECT count(*) FROM billing.window_usage WHERE tokens <> accounted",
    "meter events to deliver": "SELECT count(*) FROM billing.meter_events WHERE state <> 'delivered'",
}


@dataclass(frozen=True, slots=True)
class Line:
    """What one link says. None: it does not know."""

    source: str
    requests: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens: int | None = None
    picodollars: int | None = None


class Auditor:
    """Reads everything; changes nothing but when billing tries again."""

    def __init__(self, suite: Suite, stripe: FakeStripe | None) -> None:
        self._suite = suite
        self._stripe = stripe
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def wait_settled(self, requests: int) -> None:
        """Returns once nothing is on its way any more. Fails with what is, when that does not become less.

        What leaves one place comes to the next (a record in the gateway is two rows to read and a window to close), so
        less in any of them is progress. As long as `requests` can take by that, and no longer, it may go on.
        """
        began = until = time.monotonic()
        until += STANDSTILL_S
        longest = began + 3 * STANDSTILL_S + requests * SETTLED_S
        before: Mapping[str, int] = {}
        quiet = 0
        while quiet < 3:
            waiting = {name: number for name, number in self._waiting().items() if number}
            quiet = 0 if waiting else quiet + 1
            if BACK not in waiting:
                if any(waiting.get(name, 0) < number for name, number in before.items()):
                    until = time.monotonic() + STANDSTILL_S
                before = waiting
            now = time.monotonic()
            assert now < until, f"still on the way, and no less for {STANDSTILL_S:.0f} s: {waiting}"
            assert now < longest, f"still on the way after {now - began:.0f} s: {waiting}"
            time.sleep(LOOK_S)

    def lines(self) -> list[Line]:
        """One line a link."""
        engines = self.engines()
        with psycopg.connect(self._suite.database_url, connect_timeout=5) as connection:
            prompt, completion = self._row(connection, _UNPAID)
            prompt, completion = engines["prompt"] - prompt, engines["completion"] - completion
            lines = [Line("nodes, less what is explained", None, prompt, completion, prompt + completion)]
            for source, name in _TABLES.items():
                requests, prompt, completion, cost = self._row(connection, _SUMS + name)
                lines.append(Line(source, requests, prompt, completion, prompt + completion, cost))
            lines.append(Line("money ledger, revenue", picodollars=self._row(connection, _BOOKS)[0]))
            tokens, cost = self._row(connection, _MONTHS)
            lines.append(Line("billing's months", tokens=tokens, picodollars=cost))
            if self._stripe is not None:
                outbox = {str(row[0]): int(str(row[1])) for row in connection.execute(_OUTBOX).fetchall()}
                meters = {
                    name: self._stripe.total(name) for name in {event.event_name for event in self._stripe.events}
                }
                lines.append(Line("billing's outbox", **_by_unit(outbox)))
                lines.append(Line("Stripe's meters", **_by_unit(meters)))
                assert meters == outbox, "a meter is not its outbox"
        return lines

    def engines(self) -> dict[str, int]:
        """Tokens as the nodes' agents counted them."""
        found = {"prompt": 0, "completion": 0}
        for number in range(1, self._suite.nodes + 1):
            for match in _TOKENS.finditer(self._metrics(f"node_agent_metrics-{number}")):
                found[match["kind"]] += round(float(match["value"]))
        return found

    def billed_twice(self) -> int:
        """Requests that count other than once."""
        query = (
            "SELECT count(*) FROM (SELECT FROM ledger.usage_records "
            "GROUP BY request_id HAVING sum(requests) <> 1) wrong"
        )
        with psycopg.connect(self._suite.database_url, connect_timeout=5) as connection:
            return self._row(connection, query)[0]

    def tokens_of(self, request_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """What these requests are charged for."""
        query = (
            "SELECT request_id::text, sum(prompt_tokens), sum(completion_tokens) FROM ledger.usage_records "
            "WHERE request_id = ANY(%s::uuid[]) GROUP BY 1"
        )
        with psycopg.connect(self._suite.database_url, connect_timeout=5) as connection:
            rows = connection.execute(query, (list(request_ids),)).fetchall()
        return {str(row[0]): (int(row[1]), int(row[2])) for row in rows}

    def _waiting(self) -> dict[str, int]:
        found: dict[str, int] = {}
        try:
            for number in range(1, self._suite.nodes + 1):
                text = self._metrics(f"node_agent_metrics-{number}")
                for name in ("crosslogic_node_witnesses_waiting", "crosslogic_node_calls_running"):
                    found[f"{name} of node {number}"] = _gauge(text, name)
            text = self._opener.open(f"{self._suite.base_url}/metrics", timeout=5).read().decode()
            found["records in the gateway"] = _gauge(text, "crosslogic_usage_outbox_records")
            # Each statement by itself: what is counted here must not be locked until all has been counted, or the
            # accountant finds slots of witnesses, and the sender lanes, in use at every other look.
            with psycopg.connect(self._suite.database_url, connect_timeout=5, autocommit=True) as connection:
                # What was to be tried again later is tried now: nobody waits a quarter of an hour here, neither for a
                # lane nor for an event that its lane has gone past.
                connection.execute("UPDATE billing.meter_lanes SET due_at = now() WHERE due_at > now()")
                connection.execute(
                    "UPDATE billing.meter_events SET due_at = now() WHERE state = 'pending' AND due_at > now()"
                )
                for name, query in _WAITING.items():
                    if self._stripe is not None or name != "meter events to deliver":
                        found[name] = self._row(connection, query)[0]
        except (OSError, psycopg.OperationalError):
            return {**found, BACK: 1}
        return found

    def _metrics(self, target: str) -> str:
        with self._opener.open(f"http://{self._suite.target(target)}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    @staticmethod
    def _row(connection: "psycopg.Connection[tuple[object, ...]]", query: LiteralString) -> list[int]:
        row = connection.execute(query).fetchone()
        assert row is not None
        return [int(str(value)) if value is not None else 0 for value in row]


def table(lines: Sequence[Line]) -> str:
    """To be read by people."""
    head = ("", "requests", "prompt tokens", "completion tokens", "tokens", "pico-dollars")
    rows = [
        (line.source, line.requests, line.prompt_tokens, line.completion_tokens, line.tokens, line.picodollars)
        for line in lines
    ]
    cells = [
        head,
        *(
            tuple("" if value is None else f"{value:,}" if isinstance(value, int) else value for value in row)
            for row in rows
        ),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def disagreements(lines: Sequence[Line]) -> list[str]:
    """Where two links that know a number say different ones."""
    found: list[str] = []
    for name in ("requests", "prompt_tokens", "completion_tokens", "tokens", "picodollars"):
        said = {line.source: getattr(line, name) for line in lines if getattr(line, name) is not None}
        if len(set(said.values())) > 1:
            found.append(f"{name}: {said}")
    return found


def _by_unit(meters: Mapping[str, int]) -> dict[str, int]:
    """A category of models has two meters: what was charged, and how many tokens that were."""
    return {
        unit: sum(value for name, value in meters.items() if name.endswith(f"_{unit}"))
        for unit in ("tokens", "picodollars")
    }


def _gauge(text: str, name: str) -> int:
    return round(
        sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    )

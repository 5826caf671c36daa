"""What the ledger holds, as an operator sees it through the admin API and as the database has it."""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from crosslogic_dev.suite import Suite

_EFFECTIVE = """
    SELECT request_id::text, sum(requests)::int, sum(prompt_tokens)::bigint,
           sum(completion_tokens)::bigint, sum(cost_picodollars)::bigint,
           bool_or(from_witness), (array_agg(outcome ORDER BY revision DESC))[1]::int
    FROM ledger.usage_records GROUP BY request_id
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """All rows of one request together: what its tenant is billed."""

    times: int
    """How often it is billed: 1, or something is broken."""
    prompt_tokens: int
    completion_tokens: int
    cost_picodollars: int
    from_witness: bool
    outcome: int

    @property
    def tokens(self) -> tuple[int, int]:
        """Prompt and completion."""
        return self.prompt_tokens, self.completion_tokens


class Ledger:
    """The ledger of one suite."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite

    def record(self, request_id: str, *, timeout_s: float = 10.0) -> Mapping[str, Any]:
        """The one record of a request, through the admin API; waits until it is there. Fails on two."""
        until = time.monotonic() + timeout_s
        while True:
            rows = self._suite.admin.must("GET", f"/admin/usage/records?request_id={request_id}")["data"]
            if rows:
                assert len(rows) == 1, rows
                row: Mapping[str, Any] = rows[0]
                return row
            assert time.monotonic() < until, f"{request_id} is not in the ledger after {timeout_s} s"
            time.sleep(0.02)

    def entries(self) -> dict[str, Entry]:
        """Everything, by request id, straight from PostgreSQL."""
        with psycopg.connect(self._suite.database_url, connect_timeout=5) as connection:
            return {row[0]: Entry(*row[1:]) for row in connection.execute(_EFFECTIVE).fetchall()}

    def waiting_witnesses(self) -> int:
        """Nodes' counts that were not looked at yet."""
        with psycopg.connect(self._suite.database_url, connect_timeout=5) as connection:
            row = connection.execute("SELECT count(*) FROM ledger.witnesses").fetchone()
        return int(row[0]) if row is not None else 0

    def failed_over(self, request_ids: Iterable[str]) -> int:
        """How many of these another node than the first ended."""
        return len(self.which_failed_over(request_ids))

    def which_failed_over(self, request_ids: Iterable[str]) -> set[str]:
        """Those of these that another node than the first ended."""
        with psycopg.connect(self._suite.database_url, connect_timeout=5) as connection:
            rows = connection.execute(
                "SELECT request_id::text FROM ledger.usage_records WHERE failed_over AND request_id = ANY(%s::uuid[])",
                (list(filter(None, request_ids)),),
            ).fetchall()
        return {row[0] for row in rows}

    def holding(self, request_ids: Collection[str], *, timeout_s: float = 30.0) -> dict[str, Entry]:
        """Everything, once all of these are in it."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                entries = self.entries()
            except psycopg.OperationalError:
                entries = {}
            missing = set(request_ids) - set(entries)
            if not missing:
                return entries
            assert time.monotonic() < until, f"{len(missing)} of {len(request_ids)} are not in the ledger: {missing}"
            time.sleep(0.1)

    def still(self, *, quiet_s: float, timeout_s: float = 30.0) -> dict[str, Entry]:
        """Everything, once nothing has changed for `quiet_s`."""
        until = time.monotonic() + timeout_s
        seen, since = self.entries(), time.monotonic()
        while time.monotonic() - since < quiet_s:
            assert time.monotonic() < until, "the ledger goes on changing"
            time.sleep(0.1)
            now = self.entries()
            if now != seen:
                seen, since = now, time.monotonic()
        return seen

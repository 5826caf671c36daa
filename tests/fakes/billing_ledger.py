"""A usage ledger in memory: rows numbered without gaps, corrections as reversal and replacement."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from crosslogic_billing.usage.domain import Page, UsageRow
from crosslogic_common.errors import CodedError, ErrorCode


@dataclass
class FakeLedger:
    """Implements usage.ports.Ledger."""

    rows: list[UsageRow] = field(default_factory=list)
    away: bool = False

    async def read(self, after_sequence: int, limit: int) -> Page:
        if self.away:
            raise CodedError(ErrorCode.UNAVAILABLE)
        return Page(tuple(self.rows[after_sequence : after_sequence + limit]), len(self.rows))

    def use(
        self,
        org_id: str,
        start: datetime,
        *,
        prompt: int,
        completion: int = 0,
        cached: int = 0,
        price: int = 50_000,
        model: str = "llama-3-8b",
        version: str = "",
    ) -> UsageRow:
        row = UsageRow(
            sequence=len(self.rows) + 1,
            request_id=str(uuid.uuid4()),
            org_id=org_id,
            model=model,
            price_version=version,
            start_time=start,
            charged=True,
            prompt_tokens=prompt,
            cached_prompt_tokens=cached,
            completion_tokens=completion,
            prompt_price=price,
            cached_prompt_price=price,
            completion_price=price,
            cost_picodollars=(prompt + completion) * price,
            sign=1,
        )
        self.rows.append(row)
        return row

    def correct(self, wrong: UsageRow, *, prompt: int, completion: int = 0) -> None:
        self.rows.append(replace(wrong, sequence=len(self.rows) + 1, sign=-1))
        cost = (prompt + completion) * wrong.prompt_price
        self.rows.append(
            replace(
                wrong,
                sequence=len(self.rows) + 1,
                prompt_tokens=prompt,
                completion_tokens=completion,
                cost_picodollars=cost,
            )
        )

    def tokens(self, org_id: str) -> int:
        return sum(
            row.sign * (row.prompt_tokens + row.completion_tokens)
            for row in _charged(self.rows)
            if row.org_id == org_id
        )

    def cost(self, org_id: str) -> int:
        return sum(row.sign * row.cost_picodollars for row in _charged(self.rows) if row.org_id == org_id)


def _charged(rows: Sequence[UsageRow]) -> list[UsageRow]:
    return [row for row in rows if row.charged]

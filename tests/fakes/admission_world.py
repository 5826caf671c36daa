"""Several gateway workers' admission against one Redis, with a ledger of the test's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from crosslogic.node_agent.v1 import node_agent_pb2 as agent_pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admission.admission import NO_WAIT
from crosslogic_gateway.admission.held_ticket import HeldTicket
from crosslogic_gateway.admission.ports import Settled, Spent, Used
from crosslogic_gateway.admission.wiring import AdmissionOptions, RunningAdmission, running_admission
from crosslogic_gateway.body import parse_body
from crosslogic_gateway.domain import NO_LIMITS, HardBudget, Limits, Model, Principal
from crosslogic_gateway.prices import Prices
from crosslogic_gateway.shedding.service_turns import Turn

PROMPT_PRICE, COMPLETION_PRICE = 50_000, 100_000
MODEL = Model("m", "f", 8192, PROMPT_PRICE, COMPLETION_PRICE, frozenset(), 0)
GENEROUS_S = 5.0
"""What Redis may take where a test is not about a late one: machines that test are busy."""


@dataclass
class FakeLedger:
    """What a test says was used."""

    away: bool = False
    entries: list[Used] = field(default_factory=list)
    spent_picodollars: dict[str, int] = field(default_factory=dict)
    records: dict[str, Settled] = field(default_factory=dict)
    reads: int = 0
    used_after_s: float = 0.0
    """How long it takes to say what was used."""

    async def used(self, org_id: str) -> list[Used]:
        self._read()
        await asyncio.sleep(self.used_after_s)
        return self.entries

    async def spent(self, org_id: str, budgets: Sequence[HardBudget]) -> list[Spent]:
        self._read()
        return [Spent(self.month, self.spent_picodollars.get(budget.id, 0)) for budget in budgets]

    async def settled(self, org_id: str, request_id: str) -> Settled | None:
        self._read()
        return self.records.get(request_id)

    month: str = ""

    def _read(self) -> None:
        self.reads += 1
        if self.away:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the accountant is away")


@contextlib.asynccontextmanager
async def workers(
    url: str,
    count: int,
    *,
    ledger: FakeLedger | None = None,
    budget_s: float = GENEROUS_S,
    global_limits: Limits = NO_LIMITS,
    window_scale: float = 1.0,
) -> AsyncIterator[list[RunningAdmission]]:
    """`count` workers that share every limit."""
    async with contextlib.AsyncExitStack() as stack:
        options = AdmissionOptions(
            redis_url=url, budget_s=budget_s, workers=count, global_limits=global_limits, window_scale=window_scale
        )
        running = [
            await stack.enter_async_context(
                running_admission(options, ledger=ledger or FakeLedger(), prices=Prices(), registry=CollectorRegistry())
            )
            for _ in range(count)
        ]
        for worker in running:
            # Now each of them knows of all the others.
            await worker.upkeep.renew()
        yield running


async def admit(
    worker: RunningAdmission,
    principal: Principal,
    request_id: str,
    *,
    max_tokens: int = 20,
    text: str = "hello there",
    turn: Turn = NO_WAIT,
    early: bool = False,
) -> HeldTicket:
    raw = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"max_tokens":%d}' % (text.encode(), max_tokens)
    return await worker.admission.admit(
        request_id=request_id,
        principal=principal,
        model=MODEL,
        body=parse_body(agent_pb.ENGINE_API_CHAT_COMPLETIONS, raw),
        raw=raw,
        api="/v1/chat/completions",
        turn=turn,
        early=early,
    )

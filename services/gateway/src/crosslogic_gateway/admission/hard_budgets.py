"""The hard budgets that the accountant keeps, pushed by it; kept while it is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import grpc.aio

from crosslogic.accountant.v1 import budgets_pb2 as pb
from crosslogic.accountant.v1 import budgets_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_gateway.domain import HardBudget, Principal

ID_PREFIX = "budget:"
"""What the ids of these budgets begin with, in the place of a scope."""
MAX_KEYS = 50_000
FIRST_S = 2.0
"""How long a worker's start waits for the budgets: nobody should pass one because it was not heard of yet."""
_SCOPES: Mapping[int, Literal["org", "environment", "api_key"]] = MappingProxyType(
    {
        pb.SPEND_SCOPE_ORG: "org",
        # Several environments' and keys': whose limit it is, is told as the organisation's.
        pb.SPEND_SCOPE_DEPARTMENT: "org",
        pb.SPEND_SCOPE_ENVIRONMENT: "environment",
        pb.SPEND_SCOPE_API_KEY: "api_key",
    }
)


@dataclass(frozen=True, slots=True)
class _Known:
    budget: HardBudget
    everybody: bool
    environment_ids: frozenset[str]
    api_key_ids: frozenset[str]

    def covers(self, principal: Principal) -> bool:
        return (
            self.everybody
            or principal.environment_id in self.environment_ids
            or principal.api_key_id in self.api_key_ids
        )


class HardBudgets:
    """This worker's copy."""

    def __init__(self) -> None:
        self._by_org: dict[str, dict[str, _Known]] = {}
        self._of_key: dict[tuple[str, str], tuple[HardBudget, ...]] = {}

    def of(self, principal: Principal) -> tuple[HardBudget, ...]:
        """Those that a principal's requests count towards. The same tuple until one of them changes."""
        known = self._by_org.get(principal.org_id)
        if not known:
            return ()
        key = (principal.environment_id, principal.api_key_id)
        found = self._of_key.get(key)
        if found is None:
            if len(self._of_key) >= MAX_KEYS:
                self._of_key.clear()
            found = tuple(one.budget for one in known.values() if one.covers(principal))
            self._of_key[key] = found
        return found

    def replace(self, states: list[pb.BudgetState]) -> None:
        """Takes all of them as they are now."""
        self._by_org = {}
        self.change(states)

    def change(self, states: list[pb.BudgetState]) -> None:
        """Takes those that changed."""
        for state in states:
            budget = state.budget
            known = self._by_org.setdefault(budget.org_id, {})
            known.pop(budget.id, None)
            made = None if state.deleted or not budget.hard else _known(budget)
            if made is not None:
                known[budget.id] = made
            if not known:
                del self._by_org[budget.org_id]
        self._of_key.clear()


def _known(budget: pb.Budget) -> _Known | None:
    scope = _SCOPES.get(budget.scope)
    if scope is None:
        return None
    return _Known(
        HardBudget(
            f"{ID_PREFIX}{budget.id}",
            scope,
            "day" if budget.period == pb.SPEND_PERIOD_DAY else "month",
            budget.limit_picodollars,
        ),
        budget.scope == pb.SPEND_SCOPE_ORG,
        frozenset(
            [*budget.environment_ids, *([budget.scope_id] if budget.scope == pb.SPEND_SCOPE_ENVIRONMENT else [])]
        ),
        frozenset([*budget.api_key_ids, *([budget.scope_id] if budget.scope == pb.SPEND_SCOPE_API_KEY else [])]),
    )


class BudgetWatch:
    """Keeps the copy in step with the accountant."""

    def __init__(self, *, channels: Channels, target: str, budgets: HardBudgets) -> None:
        """`target` is host:port of the accountant."""
        self._channels = channels
        self._target = target
        self._budgets = budgets
        self._log = get_logger(__name__)
        self._first = asyncio.Event()
        self.lost = True
        """The accountant's budgets are not followed now."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches for as long as the block lasts, which begins with the budgets unless the accountant is away."""
        task = asyncio.create_task(self._keep(), name="budgets")
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_S):
                    await self._first.wait()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        backoff = Backoff(cap_s=2.0)
        while True:
            try:
                await self._watch(backoff)
            except grpc.aio.AioRpcError as error:
                self._log.warning("watch lost", watch="budgets", reason=from_rpc_error(error).private)
            self.lost = True
            await asyncio.sleep(backoff.next_s())

    async def _watch(self, backoff: Backoff) -> None:
        stub = rpc.BudgetServiceStub(self._channels.service("accountant", self._target))
        first: list[pb.BudgetState] | None = []
        async for message in stub.WatchBudgets(pb.WatchBudgetsRequest(hard_only=True)):
            backoff.reset()
            if first is None:
                self._budgets.change(list(message.states))
                continue
            first.extend(message.states)
            if message.complete:
                self._budgets.replace(first)
                first, self.lost = None, False
                self._first.set()

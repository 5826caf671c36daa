"""Telling owners that a monthly cap is running out: a soft budget at the accountant, which tells once and durably."""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from uuid import UUID, uuid5

import grpc.aio

from crosslogic.accountant.v1 import budgets_pb2 as pb
from crosslogic.accountant.v1 import budgets_pb2_grpc as rpc
from crosslogic_common.batched import Backoff
from crosslogic_common.errors import from_rpc_error
from crosslogic_common.logs import get_logger
from crosslogic_common.tls import Channels
from crosslogic_gateway.admission.hard_budgets import ID_PREFIX
from crosslogic_gateway.admission.ledger import PERIODS, SCOPES, TIMEOUT_S, owner_of
from crosslogic_gateway.domain import HardBudget

NAME = "Monthly cap"
OWNER = "crosslogic:monthly-cap"
"""By it these budgets are known from those that people made."""
MAX_PENDING = 1_000
_IDS = UUID("5b0f3f3a-8d5c-4c35-9a0e-6f0b8a1f7c11")


class CapNotices:
    """One a worker; all of them make the same budgets."""

    def __init__(self, *, channels: Channels, target: str) -> None:
        """`target` is host:port of the accountant."""
        self._channels = channels
        self._target = target
        self._pending: OrderedDict[tuple[str, HardBudget], None] = OrderedDict()
        self._wanted = asyncio.Event()
        self._log = get_logger(__name__)

    def passed(self, org_id: str, budget: HardBudget) -> None:
        """A share of it is spent or held at which its owners are told. The accountant's own need no telling."""
        if not budget.id.startswith(ID_PREFIX) and len(self._pending) < MAX_PENDING:
            self._pending[org_id, budget] = None
            self._wanted.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Makes budgets for as long as the block lasts."""
        task = asyncio.create_task(self._keep(), name="cap notices")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self) -> None:
        backoff = Backoff(cap_s=30.0)
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._pending:
                org_id, budget = next(iter(self._pending))
                try:
                    await self._make(org_id, budget)
                except grpc.aio.AioRpcError as error:
                    self._log.warning("no notice of a cap yet", org_id=org_id, reason=from_rpc_error(error).private)
                    await asyncio.sleep(backoff.next_s())
                else:
                    backoff.reset()
                    del self._pending[org_id, budget]

    async def _make(self, org_id: str, cap: HardBudget) -> None:
        """Sees to it that the cap's budget is there, and none of what the cap was before."""
        stub = rpc.BudgetServiceStub(self._channels.service("accountant", self._target))
        scope_id = "" if cap.scope == "org" else owner_of(cap, org_id)
        made = pb.Budget(
            org_id=org_id,
            scope=SCOPES[cap.scope],
            scope_id=scope_id,
            name=NAME,
            period=PERIODS[cap.period],
            limit_picodollars=cap.limit_picodollars,
            owners=[OWNER],
        )
        own_id = str(uuid5(_IDS, f"{cap.id}:{cap.limit_picodollars}"))
        await stub.CreateBudget(pb.CreateBudgetRequest(budget=made, request_id=own_id), timeout=TIMEOUT_S)
        token = ""
        while True:
            page = await stub.ListBudgets(
                pb.ListBudgetsRequest(org_id=org_id, page_size=1_000, page_token=token), timeout=TIMEOUT_S
            )
            for state in page.states:
                known = state.budget
                ours = list(known.owners) == [OWNER] and (known.scope, known.scope_id) == (made.scope, scope_id)
                if ours and known.id != own_id:
                    await stub.DeleteBudget(pb.DeleteBudgetRequest(id=known.id), timeout=TIMEOUT_S)
            token = page.next_page_token
            if not token:
                return

"""BudgetService: protobuf to domain and back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import grpc.aio

from crosslogic.accountant.v1 import budgets_pb2 as pb
from crosslogic.accountant.v1 import budgets_pb2_grpc as rpc
from crosslogic_accountant.budgets.domain import BudgetState
from crosslogic_accountant.budgets.messages import (
    budget_event,
    budget_state,
    read_budget,
    read_change,
    read_spend_query,
    read_uuid,
    spend,
)
from crosslogic_accountant.budgets.read_store import SpendReader
from crosslogic_accountant.budgets.store import BudgetStore
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import bad_token, page_limit, unwrap, wrap

MAX_QUERIES = 1_000
MAX_STATES = 1_000
MAX_SEQUENCE = 2**63 - 1
Context = grpc.aio.ServicerContext[Any, Any]


class BudgetServicer(rpc.BudgetServiceServicer):
    """BudgetService."""

    def __init__(
        self,
        *,
        budgets: BudgetStore,
        spending: SpendReader,
        now: Callable[[], datetime],
        stopping: asyncio.Event,
        watch_interval_s: float = 0.5,
    ) -> None:
        """`now` is the wall clock."""
        self._budgets = budgets
        self._spending = spending
        self._now = now
        self._stopping = stopping
        self._watch_interval_s = watch_interval_s

    async def CreateBudget(self, request: pb.CreateBudgetRequest, context: Context) -> pb.CreateBudgetResponse:
        budget = read_budget(request.budget, read_uuid(request.request_id, "request_id"))
        return pb.CreateBudgetResponse(state=budget_state(await self._budgets.create(budget)))

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Context) -> pb.GetBudgetResponse:
        return pb.GetBudgetResponse(state=budget_state(await self._budgets.get(read_uuid(request.id, "id"))))

    async def ListBudgets(self, request: pb.ListBudgetsRequest, context: Context) -> pb.ListBudgetsResponse:
        limit = page_limit(request.page_size)
        states = await self._budgets.page(
            read_uuid(request.org_id, "org_id") if request.org_id else None,
            after=read_number(request.page_token) if request.page_token else 0,
            limit=limit + 1,
        )
        token = wrap(str(states[limit - 1].number)) if len(states) > limit else ""
        return pb.ListBudgetsResponse(states=[budget_state(state) for state in states[:limit]], next_page_token=token)

    async def UpdateBudget(self, request: pb.UpdateBudgetRequest, context: Context) -> pb.UpdateBudgetResponse:
        state = await self._budgets.update(read_uuid(request.id, "id"), read_change(request))
        return pb.UpdateBudgetResponse(state=budget_state(state))

    async def DeleteBudget(self, request: pb.DeleteBudgetRequest, context: Context) -> pb.DeleteBudgetResponse:
        await self._budgets.delete(read_uuid(request.id, "id"))
        return pb.DeleteBudgetResponse()

    async def ListBudgetEvents(
        self, request: pb.ListBudgetEventsRequest, context: Context
    ) -> pb.ListBudgetEventsResponse:
        if request.after_sequence > MAX_SEQUENCE:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "There is no such sequence.", param="after_sequence")
        events = await self._budgets.events(
            org_id=read_uuid(request.org_id, "org_id") if request.org_id else None,
            budget_id=read_uuid(request.budget_id, "budget_id") if request.budget_id else None,
            after=request.after_sequence,
            limit=page_limit(request.page_size),
        )
        return pb.ListBudgetEventsResponse(events=[budget_event(event) for event in events])

    async def WatchBudgets(
        self, request: pb.WatchBudgetsRequest, context: Context
    ) -> AsyncIterator[pb.WatchBudgetsResponse]:
        version = 0
        today = self._now().date()
        complete = False
        told: set[UUID] = set()
        while not self._stopping.is_set():
            states, version = await self._budgets.changed(version, limit=MAX_STATES)
            last = len(states) == 0
            # What the reader knows, it is told the end of: a budget that is deleted, or hard no more.
            wanted = [state for state in states if _matters(state, request.hard_only) or state.budget.id in told]
            for state in wanted:
                (told.add if _matters(state, request.hard_only) else told.discard)(state.budget.id)
            if wanted or (last and not complete):
                complete = complete or last
                yield pb.WatchBudgetsResponse(states=[budget_state(state) for state in wanted], complete=complete)
            if not last:
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._watch_interval_s)
            if self._now().date() != today:
                # A new day: every budget starts anew or has come a day further.
                version, today = 0, self._now().date()
        raise CodedError(ErrorCode.UNAVAILABLE, private="stopping", retry_after_s=1.0)

    async def ReadSpend(self, request: pb.ReadSpendRequest, context: Context) -> pb.ReadSpendResponse:
        if not 1 <= len(request.queries) <= MAX_QUERIES:
            raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`queries` must be 1 to {MAX_QUERIES}.", param="queries")
        queries = [read_spend_query(query) for query in request.queries]
        spends, sequence = await self._spending.read(queries, self._now())
        return pb.ReadSpendResponse(spends=[spend(each) for each in spends], sequence=sequence)


def _matters(state: BudgetState, hard_only: bool) -> bool:
    return not state.deleted and (state.budget.hard or not hard_only)


def read_number(token: str) -> int:
    """The number in a page token. Raises INVALID_ARGUMENT."""
    text = unwrap(token)
    if not (text.isascii() and text.isdigit() and len(text) < len(str(MAX_SEQUENCE))):
        raise bad_token()
    return int(text)

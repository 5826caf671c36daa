"""Protobuf to domain and back."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc.aio

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic.billing.v1 import billing_pb2_grpc as rpc
from crosslogic_billing.accounts import wire as account_wire
from crosslogic_billing.accounts.service import Accounts
from crosslogic_billing.export import wire as export_wire
from crosslogic_billing.export.outbox_store import PostgresOutbox
from crosslogic_billing.export.stripe_sink import Buyer
from crosslogic_billing.prices import wire as price_wire
from crosslogic_billing.prices.book import PriceBook
from crosslogic_billing.reconcile import wire as reconcile_wire
from crosslogic_billing.reconcile.service import Reconciler
from crosslogic_billing.standings.service import PlansTerms
from crosslogic_billing.views import wire as view_wire
from crosslogic_billing.views.service import Views
from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import page_limit, page_start, page_token, unwrap, wrap

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCases:
    """Everything that billing does for those who ask."""

    prices: PriceBook
    accounts: Accounts
    plans_terms: PlansTerms
    outbox: PostgresOutbox
    reconciler: Reconciler
    views: Views
    clock: Clock


class BillingServicer(rpc.BillingServiceServicer):
    """BillingService."""

    def __init__(self, does: UseCases) -> None:
        self._does = does

    async def CreatePrices(self, request: pb.CreatePricesRequest, context: Context) -> pb.CreatePricesResponse:
        made = await self._does.prices.add(price_wire.new_prices(request, self._does.clock.now()))
        return pb.CreatePricesResponse(versions=[price_wire.price_version(version) for version in made])

    async def ListPrices(self, request: pb.ListPricesRequest, context: Context) -> pb.ListPricesResponse:
        limit = page_limit(request.page_size)
        found = await self._does.prices.page(_no_zero(request.model), page_start(request.page_token), limit + 1)
        return pb.ListPricesResponse(
            versions=[price_wire.price_version(version) for version in found[:limit]],
            next_page_token=page_token([version.id for version in found], limit),
        )

    async def WatchPrices(
        self, request: pb.WatchPricesRequest, context: Context
    ) -> AsyncIterator[pb.WatchPricesResponse]:
        async with contextlib.aclosing(self._does.prices.watch()) as books:
            async for book in books:
                yield price_wire.watched(book)

    async def GetAccount(self, request: pb.GetAccountRequest, context: Context) -> pb.GetAccountResponse:
        org_id = account_wire.read_org_id(request.org_id)
        month = account_wire.read_month(request.month, await self._does.accounts.this_month(org_id))
        terms = await self._does.accounts.terms(org_id, month)
        return pb.GetAccountResponse(
            account=account_wire.account(await self._does.accounts.account(org_id)),
            terms=account_wire.terms(terms),
            plan=terms.spans[-1].plan if terms.spans else "",
            agreed_alone=await self._does.accounts.agreed_alone(org_id, month),
        )

    async def SetTerms(self, request: pb.SetTermsRequest, context: Context) -> pb.SetTermsResponse:
        org_id = account_wire.read_org_id(request.org_id)
        from_month = account_wire.read_month(request.from_month, await self._does.accounts.this_month(org_id))
        agreed = await self._does.accounts.set_terms(org_id, from_month, account_wire.read_terms(request.terms))
        return pb.SetTermsResponse(terms=account_wire.terms(agreed))

    async def GetPlanTerms(self, request: pb.GetPlanTermsRequest, context: Context) -> pb.GetPlanTermsResponse:
        month = account_wire.read_month(request.month, self._does.clock.now().date().replace(day=1))
        found = await self._does.plans_terms.of(_no_zero(request.plan), month)
        return pb.GetPlanTermsResponse(terms=account_wire.plan_terms(found))

    async def SetPlanTerms(self, request: pb.SetPlanTermsRequest, context: Context) -> pb.SetPlanTermsResponse:
        from_month = account_wire.read_month(request.from_month, self._does.clock.now().date().replace(day=1))
        terms = account_wire.read_terms(request.terms)
        made = await self._does.plans_terms.set(_no_zero(request.plan), from_month, terms)
        return pb.SetPlanTermsResponse(terms=account_wire.plan_terms(made))

    async def LinkCustomer(self, request: pb.LinkCustomerRequest, context: Context) -> pb.LinkCustomerResponse:
        where = request.address
        buyer = Buyer(
            org_id=account_wire.read_org_id(request.org_id),
            name=request.name,
            email=request.email,
            country=where.country,
            state=where.state,
            city=where.city,
            line1=where.line1,
            postal_code=where.postal_code,
            tax_id_type=request.tax_id_type,
            tax_id=request.tax_id,
        )
        return pb.LinkCustomerResponse(account=account_wire.account(await self._does.accounts.link(buyer)))

    async def ListMeterEvents(self, request: pb.ListMeterEventsRequest, context: Context) -> pb.ListMeterEventsResponse:
        limit = page_limit(request.page_size)
        org_id = account_wire.read_org_id(request.org_id) if request.org_id else ""
        found = await self._does.outbox.listed(
            export_wire.asked_state(request.state), org_id, export_wire.after_of(request.page_token), limit + 1
        )
        return pb.ListMeterEventsResponse(
            events=[export_wire.meter_event(event) for event in found[:limit]],
            next_page_token=export_wire.next_token(found, limit),
        )

    async def ReplayMeterEvent(
        self, request: pb.ReplayMeterEventRequest, context: Context
    ) -> pb.ReplayMeterEventResponse:
        event = await self._does.outbox.replay(export_wire.event_id(request.id), self._does.clock.now())
        if event is None:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such dead letter.")
        return pb.ReplayMeterEventResponse(event=export_wire.meter_event(event))

    async def ResolveMeterEvent(
        self, request: pb.ResolveMeterEventRequest, context: Context
    ) -> pb.ResolveMeterEventResponse:
        event = await self._does.outbox.resolve(export_wire.event_id(request.id), self._does.clock.now())
        if event is None:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such dead letter.")
        return pb.ResolveMeterEventResponse(event=export_wire.meter_event(event))

    async def Reconcile(self, request: pb.ReconcileRequest, context: Context) -> pb.ReconcileResponse:
        first, until = reconcile_wire.asked_days(request, self._does.clock.now().date())
        report = await self._does.reconciler.reconcile(first, until)
        return pb.ReconcileResponse(reconciliation=reconcile_wire.reconciliation(report))

    async def ListReconciliations(
        self, request: pb.ListReconciliationsRequest, context: Context
    ) -> pb.ListReconciliationsResponse:
        limit = page_limit(request.page_size, default=10, largest=100)
        before = _uuid(unwrap(request.page_token)) if request.page_token else ""
        found = await self._does.reconciler.listed(before, limit + 1)
        return pb.ListReconciliationsResponse(
            reconciliations=[reconcile_wire.reconciliation(report) for report in found[:limit]],
            next_page_token=wrap(found[limit - 1].id) if len(found) > limit else "",
        )

    async def SignOffReconciliation(
        self, request: pb.SignOffReconciliationRequest, context: Context
    ) -> pb.SignOffReconciliationResponse:
        report = await self._does.reconciler.sign(_uuid(request.id), signed_by=request.signed_by, note=request.note)
        return pb.SignOffReconciliationResponse(reconciliation=reconcile_wire.reconciliation(report))

    async def ExplainCharge(self, request: pb.ExplainChargeRequest, context: Context) -> pb.ExplainChargeResponse:
        return view_wire.explanation(await self._does.views.explain(_uuid(request.request_id)))

    async def GetStatement(self, request: pb.GetStatementRequest, context: Context) -> pb.GetStatementResponse:
        org_id = account_wire.read_org_id(request.org_id)
        this_month = await self._does.accounts.this_month(org_id)
        return view_wire.statement(
            await self._does.views.month(org_id, account_wire.read_month(request.month, this_month))
        )

    async def ListInvoices(self, request: pb.ListInvoicesRequest, context: Context) -> pb.ListInvoicesResponse:
        limit = page_limit(request.page_size, default=20, largest=100)
        found = await self._does.views.invoices(account_wire.read_org_id(request.org_id), limit)
        return pb.ListInvoicesResponse(invoices=[view_wire.invoice(one) for one in found])

    async def SetMachineCost(self, request: pb.SetMachineCostRequest, context: Context) -> pb.SetMachineCostResponse:
        machine = await self._does.views.set_machine(view_wire.read_machine(request.machine))
        return pb.SetMachineCostResponse(machine=view_wire.machine(machine))

    async def QueryFinops(self, request: pb.QueryFinopsRequest, context: Context) -> pb.QueryFinopsResponse:
        since = price_wire.read_time(request.from_time, "from_time")
        until = price_wire.read_time(request.to_time, "to_time")
        return view_wire.finops(await self._does.views.finops(since, until))


def _no_zero(text: str) -> str:
    """The text. Raises INVALID_ARGUMENT for a zero byte, which PostgreSQL does not take."""
    if "\0" in text:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, "`model` holds a zero byte.", param="model")
    return text


def _uuid(text: str) -> str:
    """An id as stored. A text that is no UUID names nothing."""
    try:
        return str(UUID(text))
    except ValueError:
        raise CodedError(ErrorCode.NOT_FOUND) from None

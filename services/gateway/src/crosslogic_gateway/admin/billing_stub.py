"""Billing as the admin API needs it."""

from typing import Protocol

from crosslogic.billing.v1 import billing_pb2 as pb
from crosslogic_gateway.admin.deps import Rpc


class BillingStub(Protocol):
    """crosslogic.billing.v1.BillingService, as far as operators need it."""

    @property
    def CreatePrices(self) -> Rpc[pb.CreatePricesRequest, pb.CreatePricesResponse]: ...  # noqa: D102
    @property
    def ListPrices(self) -> Rpc[pb.ListPricesRequest, pb.ListPricesResponse]: ...  # noqa: D102
    @property
    def GetAccount(self) -> Rpc[pb.GetAccountRequest, pb.GetAccountResponse]: ...  # noqa: D102
    @property
    def SetTerms(self) -> Rpc[pb.SetTermsRequest, pb.SetTermsResponse]: ...  # noqa: D102
    @property
    def GetPlanTerms(self) -> Rpc[pb.GetPlanTermsRequest, pb.GetPlanTermsResponse]: ...  # noqa: D102
    @property
    def SetPlanTerms(self) -> Rpc[pb.SetPlanTermsRequest, pb.SetPlanTermsResponse]: ...  # noqa: D102
    @property
    def LinkCustomer(self) -> Rpc[pb.LinkCustomerRequest, pb.LinkCustomerResponse]: ...  # noqa: D102
    @property
    def ListMeterEvents(self) -> Rpc[pb.ListMeterEventsRequest, pb.ListMeterEventsResponse]: ...  # noqa: D102
    @property
    def ReplayMeterEvent(self) -> Rpc[pb.ReplayMeterEventRequest, pb.ReplayMeterEventResponse]: ...  # noqa: D102
    @property
    def ResolveMeterEvent(self) -> Rpc[pb.ResolveMeterEventRequest, pb.ResolveMeterEventResponse]: ...  # noqa: D102
    @property
    def Reconcile(self) -> Rpc[pb.ReconcileRequest, pb.ReconcileResponse]: ...  # noqa: D102
    @property
    def ListReconciliations(  # noqa: D102
        self,
    ) -> Rpc[pb.ListReconciliationsRequest, pb.ListReconciliationsResponse]: ...
    @property
    def SignOffReconciliation(  # noqa: D102
        self,
    ) -> Rpc[pb.SignOffReconciliationRequest, pb.SignOffReconciliationResponse]: ...
    @property
    def ExplainCharge(self) -> Rpc[pb.ExplainChargeRequest, pb.ExplainChargeResponse]: ...  # noqa: D102
    @property
    def GetStatement(self) -> Rpc[pb.GetStatementRequest, pb.GetStatementResponse]: ...  # noqa: D102
    @property
    def ListInvoices(self) -> Rpc[pb.ListInvoicesRequest, pb.ListInvoicesResponse]: ...  # noqa: D102
    @property
    def SetMachineCost(self) -> Rpc[pb.SetMachineCostRequest, pb.SetMachineCostResponse]: ...  # noqa: D102
    @property
    def QueryFinops(self) -> Rpc[pb.QueryFinopsRequest, pb.QueryFinopsResponse]: ...  # noqa: D102

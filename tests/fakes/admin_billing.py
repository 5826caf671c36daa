"""Billing as the admin API's stub sees it."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.billing.v1 import billing_pb2 as pb
from tests.fakes.admin_stub import FakeStub

NOW = Timestamp(seconds=1_795_000_000)
ID = "01900000-0000-7000-8000-000000000001"


def _event(state: "pb.MeterEventState.ValueType" = pb.METER_EVENT_STATE_DEAD) -> pb.MeterEvent:
    return pb.MeterEvent(
        id=7,
        identifier="cl_1",
        org_id=ID,
        customer_id="cus_1",
        event_name="crosslogic_llama_tokens",
        value=100,
        window_start=NOW,
        state=state,
        attempts=3,
        last_error="400 no",
        create_time=NOW,
    )


class FakeBilling(FakeStub):
    """Answers with one of everything; remembers terms and who signed."""

    def __init__(self) -> None:
        super().__init__()
        self.terms = pb.Terms(discount=pb.Ratio(numerator=1, denominator=3), time_zone="UTC", unit_fee_picodollars="0")
        self.signed_by = ""
        self.plans: dict[str, pb.PlanTerms] = {}
        """What is not here is a serverless plan without terms."""
        self.agreed_alone = False

    def CreatePrices(self, request: Any) -> Any:
        return pb.CreatePricesResponse(versions=[self._version(request.model, request.base, request.discount)])

    def ListPrices(self, request: Any) -> Any:
        base = pb.TokenPrices(prompt_picodollars=50_000)
        return pb.ListPricesResponse(
            versions=[self._version("llama", base, pb.Ratio(numerator=0, denominator=1))], next_page_token="more"
        )

    def _version(self, model: str, base: pb.TokenPrices, discount: pb.Ratio) -> pb.PriceVersion:
        return pb.PriceVersion(
            id=ID,
            model=model,
            market="india",
            category="llama",
            base=base,
            multiplier=pb.Ratio(numerator=7, denominator=10),
            discount=discount,
            prices=base,
            effective_from=NOW,
            create_time=NOW,
        )

    def GetAccount(self, request: Any) -> Any:
        account = pb.Account(org_id=request.org_id, customer_id="cus_1", failing_since=NOW)
        return pb.GetAccountResponse(account=account, terms=self.terms, plan="default", agreed_alone=self.agreed_alone)

    def SetTerms(self, request: Any) -> Any:
        self.terms = request.terms
        return pb.SetTermsResponse(terms=self.terms)

    def GetPlanTerms(self, request: Any) -> Any:
        usual = pb.PlanTerms(plan=request.plan, terms=self._complete(pb.Terms(mode=pb.BILLING_MODE_SERVERLESS)))
        return pb.GetPlanTermsResponse(terms=self.plans.get(request.plan, usual))

    def SetPlanTerms(self, request: Any) -> Any:
        known = self.plans.get(request.plan, pb.PlanTerms())
        made = pb.PlanTerms(
            plan=request.plan,
            version=known.version + 1,
            from_month=request.from_month or "2026-11",
            terms=self._complete(request.terms),
        )
        self.plans[request.plan] = made
        return pb.SetPlanTermsResponse(terms=made)

    @staticmethod
    def _complete(terms: pb.Terms) -> pb.Terms:
        usual = pb.Terms(discount=pb.Ratio(numerator=0, denominator=1), time_zone="UTC", unit_fee_picodollars="0")
        usual.MergeFrom(terms)
        return usual

    def LinkCustomer(self, request: Any) -> Any:
        return pb.LinkCustomerResponse(account=pb.Account(org_id=request.org_id, customer_id="cus_1"))

    def GetStatement(self, request: Any) -> Any:
        return pb.GetStatementResponse(
            org_id=request.org_id,
            month="2026-11",
            from_time=NOW,
            to_time=NOW,
            lines=[
                pb.StatementLine(
                    category="llama",
                    tokens=30_000,
                    uncharged_tokens=25_000,
                    list_picodollars="1500000000",
                    charge_picodollars="250000000",
                    exported_picodollars="0",
                )
            ],
            capped_picodollars="0",
            fee_picodollars="0",
            total_picodollars="250000000",
            forecast_picodollars="500000000",
            reserved=[pb.ReservedUse(model="llama", units=2, tokens=5, capacity_tokens=10)],
            settled_until=NOW,
        )

    def ListInvoices(self, request: Any) -> Any:
        invoice = pb.Invoice(
            id="in_1", status="draft", currency="usd", create_time=NOW, period_start=NOW, period_end=NOW
        )
        return pb.ListInvoicesResponse(invoices=[invoice])

    def ListMeterEvents(self, request: Any) -> Any:
        return pb.ListMeterEventsResponse(events=[_event()])

    def ReplayMeterEvent(self, request: Any) -> Any:
        return pb.ReplayMeterEventResponse(event=_event(pb.METER_EVENT_STATE_PENDING))

    def ResolveMeterEvent(self, request: Any) -> Any:
        return pb.ResolveMeterEventResponse(event=_event(pb.METER_EVENT_STATE_DELIVERED))

    def _report(self) -> pb.Reconciliation:
        line = pb.ReconciliationLine(what="outbox = Stripe", unit="tokens", left="100", right="99", unexplained=True)
        return pb.Reconciliation(
            id=ID,
            from_day="2026-11-20",
            to_day="2026-11-21",
            create_time=NOW,
            lines=[line],
            unexplained=1,
            signed_by=self.signed_by,
        )

    def Reconcile(self, request: Any) -> Any:
        return pb.ReconcileResponse(reconciliation=self._report())

    def ListReconciliations(self, request: Any) -> Any:
        return pb.ListReconciliationsResponse(reconciliations=[self._report()])

    def SignOffReconciliation(self, request: Any) -> Any:
        self.signed_by = request.signed_by
        return pb.SignOffReconciliationResponse(reconciliation=self._report())

    def ExplainCharge(self, request: Any) -> Any:
        return pb.ExplainChargeResponse(
            org_id=ID,
            model="llama",
            region="us-east",
            start_time=NOW,
            outcome="succeeded",
            cost_picodollars="9007199254740993",
            month="2026-11",
            window_start=NOW,
            events=[_event()],
            sentences=["It cost what it cost."],
        )

    def SetMachineCost(self, request: Any) -> Any:
        return pb.SetMachineCostResponse(machine=request.machine)

    def QueryFinops(self, request: Any) -> Any:
        row = pb.FinopsRow(
            name="llama", cost_picodollars="10", revenue_picodollars="4", margin_picodollars="-6", gpu_hours=1.5
        )
        return pb.QueryFinopsResponse(models=[row], regions=[row], markets=[row], idle_cost_picodollars="0", total=row)

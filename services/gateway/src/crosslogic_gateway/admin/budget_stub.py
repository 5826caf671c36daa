"""BudgetService as the admin API needs it."""

from typing import Protocol

from crosslogic.accountant.v1 import budgets_pb2 as pb
from crosslogic_gateway.admin.deps import Rpc


class BudgetStub(Protocol):
    """crosslogic.accountant.v1.BudgetService, as far as operators need it."""

    @property
    def CreateBudget(self) -> Rpc[pb.CreateBudgetRequest, pb.CreateBudgetResponse]: ...  # noqa: D102
    @property
    def GetBudget(self) -> Rpc[pb.GetBudgetRequest, pb.GetBudgetResponse]: ...  # noqa: D102
    @property
    def ListBudgets(self) -> Rpc[pb.ListBudgetsRequest, pb.ListBudgetsResponse]: ...  # noqa: D102
    @property
    def UpdateBudget(self) -> Rpc[pb.UpdateBudgetRequest, pb.UpdateBudgetResponse]: ...  # noqa: D102
    @property
    def DeleteBudget(self) -> Rpc[pb.DeleteBudgetRequest, pb.DeleteBudgetResponse]: ...  # noqa: D102
    @property
    def ListBudgetEvents(self) -> Rpc[pb.ListBudgetEventsRequest, pb.ListBudgetEventsResponse]: ...  # noqa: D102

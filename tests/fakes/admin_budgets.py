"""BudgetService as the admin API's stub sees it: in memory."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from crosslogic.accountant.v1 import budgets_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from tests.fakes.admin_stub import FakeStub

NOW = Timestamp(seconds=1_795_000_000)


class FakeBudgets(FakeStub):
    """Keeps what it is told; spending is what a test puts there."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, pb.BudgetState] = {}
        self.events: list[pb.BudgetEvent] = []

    def CreateBudget(self, request: Any) -> Any:
        state = pb.BudgetState(
            budget=request.budget, period_start=NOW, spent_picodollars="1500000000000", held_picodollars="0"
        )
        state.budget.id = request.request_id
        state.budget.create_time.CopyFrom(NOW)
        return pb.CreateBudgetResponse(state=self.states.setdefault(request.request_id, state))

    def GetBudget(self, request: Any) -> Any:
        return pb.GetBudgetResponse(state=self._known(request.id))

    def ListBudgets(self, request: Any) -> Any:
        found = [state for state in self.states.values() if request.org_id in ("", state.budget.org_id)]
        return pb.ListBudgetsResponse(states=found)

    def UpdateBudget(self, request: Any) -> Any:
        state = self._known(request.id)
        for name in ("name", "limit_picodollars", "hard"):
            if request.HasField(name):
                setattr(state.budget, name, getattr(request, name))
        return pb.UpdateBudgetResponse(state=state)

    def DeleteBudget(self, request: Any) -> Any:
        del self.states[request.id]
        return pb.DeleteBudgetResponse()

    def ListBudgetEvents(self, request: Any) -> Any:
        found = [event for event in self.events if event.sequence > request.after_sequence]
        return pb.ListBudgetEventsResponse(events=found[: request.page_size])

    def _known(self, id_: str) -> pb.BudgetState:
        if id_ not in self.states:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such budget.")
        return self.states[id_]

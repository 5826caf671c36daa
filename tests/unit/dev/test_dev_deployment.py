"""What `make up` asks of the orchestrator, and what it takes back."""

from collections.abc import Iterator
from typing import Any

import pytest

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic_dev.deployment import Asked, Deployments
from crosslogic_dev.failure import DevError


class FakeOrchestrator:
    """Deployments in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, pb.Deployment] = {}
        self.calls: list[str] = []
        self._ids: Iterator[int] = iter(range(1, 100))

    def deployments(self, _target: str) -> "FakeOrchestrator":
        return self

    def ListDeployments(self, _request: object, timeout: float) -> pb.ListDeploymentsResponse:
        return pb.ListDeploymentsResponse(deployments=self.rows.values())

    def CreateDeployment(self, request: pb.CreateDeploymentRequest, timeout: float) -> pb.CreateDeploymentResponse:
        made = pb.Deployment(id=f"d{next(self._ids)}", spec=request.spec)
        self.rows[made.id] = made
        self.calls.append(f"create {made.id}")
        return pb.CreateDeploymentResponse(deployment=made)

    def UpdateDeployment(self, request: pb.UpdateDeploymentRequest, timeout: float) -> pb.UpdateDeploymentResponse:
        changed = pb.Deployment(id=request.deployment_id, spec=request.spec)
        self.rows[changed.id] = changed
        self.calls.append(f"update {changed.id}")
        return pb.UpdateDeploymentResponse(deployment=changed)

    def DeleteDeployment(self, request: pb.DeleteDeploymentRequest, timeout: float) -> pb.DeleteDeploymentResponse:
        del self.rows[request.deployment_id]
        self.calls.append(f"delete {request.deployment_id}")
        return pb.DeleteDeploymentResponse()


@pytest.fixture
def orchestrator() -> FakeOrchestrator:
    return FakeOrchestrator()


def ask(orchestrator: Any, nodes: int, *, model: str = "x", known_id: str = "", fresh: bool = False) -> Asked:
    return Deployments(orchestrator, "t").ask(model=model, nodes=nodes, known_id=known_id, fresh=fresh)


def bounds(orchestrator: FakeOrchestrator) -> list[tuple[str, int, int]]:
    return [(each.spec.model, each.spec.min_nodes, each.spec.max_nodes) for each in orchestrator.rows.values()]


def test_exactly_so_many_machines_are_kept_as_were_asked_for(orchestrator: FakeOrchestrator) -> None:
    ask(orchestrator, 2)
    assert bounds(orchestrator) == [("x", 2, 2)]
    [made] = orchestrator.rows.values()
    assert list(made.spec.constraints.providers) == ["local"]


def test_asking_again_changes_nothing_and_more_nodes_are_added(orchestrator: FakeOrchestrator) -> None:
    ask(orchestrator, 1)
    assert not ask(orchestrator, 1).changed
    assert ask(orchestrator, 3).changed
    assert (bounds(orchestrator), orchestrator.calls) == ([("x", 3, 3)], ["create d1", "update d1"])


def test_what_somebody_set_on_the_deployment_stays(orchestrator: FakeOrchestrator) -> None:
    ask(orchestrator, 1)
    orchestrator.rows["d1"].spec.max_nodes, orchestrator.rows["d1"].spec.warm_spares = 9, 1
    ask(orchestrator, 2)
    assert bounds(orchestrator) == [("x", 2, 9)]
    assert orchestrator.rows["d1"].spec.warm_spares == 1


def test_fewer_or_another_model_after_a_crash_do_not_get_what_was_asked_for_before(
    orchestrator: FakeOrchestrator,
) -> None:
    ask(orchestrator, 3)
    ask(orchestrator, 1, known_id="d1", fresh=True)
    assert bounds(orchestrator) == [("x", 1, 1)]
    ask(orchestrator, 1, model="y", known_id="d2", fresh=True)
    assert bounds(orchestrator) == [("y", 1, 1)]


def test_a_deployment_of_somebody_elses_survives_a_start(orchestrator: FakeOrchestrator) -> None:
    ask(orchestrator, 1, model="theirs")
    ask(orchestrator, 1, fresh=True)
    assert bounds(orchestrator) == [("theirs", 1, 1), ("x", 1, 1)]


def test_what_fails_is_taken_back_to_what_was_before(orchestrator: FakeOrchestrator) -> None:
    first = ask(orchestrator, 2)
    more = ask(orchestrator, 5)
    Deployments(orchestrator, "t").take_back(more)  # type: ignore[arg-type]
    assert bounds(orchestrator) == [("x", 2, 2)]
    Deployments(orchestrator, "t").take_back(ask(orchestrator, 2))  # type: ignore[arg-type]
    assert bounds(orchestrator) == [("x", 2, 2)]
    Deployments(orchestrator, "t").take_back(first)  # type: ignore[arg-type]
    assert bounds(orchestrator) == []


def test_a_paused_deployment_is_said_and_not_waited_for(orchestrator: FakeOrchestrator) -> None:
    ask(orchestrator, 1)
    orchestrator.rows["d1"].spec.mode = pb.DEPLOYMENT_MODE_PAUSED
    with pytest.raises(DevError, match="paused"):
        ask(orchestrator, 2)

"""What `make up` tells of launches, and when it gives up."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from crosslogic.registry.v1 import registry_pb2
from crosslogic_common.os_process import start_ticks
from crosslogic_dev.failure import DevError
from crosslogic_dev.launches import Launches
from crosslogic_dev.plan import Plan
from crosslogic_dev.run_dir import RunDir

SINCE = 1_000.0
PLAN = Plan(engine="sim", model="", nodes=1, machines=True, ports={"orchestrator": 1, "registry": 2})


@dataclass
class FakeFleet:
    """An orchestrator and a registry with one machine, `m`."""

    job: pb.Job = field(default_factory=lambda: pb.Job(id="j", instance_id="m", kind=pb.JOB_KIND_LAUNCH))
    state: "pb.InstanceState.ValueType" = pb.INSTANCE_STATE_LAUNCHING
    asked_at: int = int(SINCE) + 5
    model: str = "x"
    node: registry_pb2.Node = field(default_factory=lambda: registry_pb2.Node(id="m"))

    def machines(self, _target: str) -> "FakeFleet":
        return self

    def nodes(self, _target: str) -> list[registry_pb2.Node]:
        return [self.node]

    def ListInstances(self, _request: object, timeout: float) -> pb.ListInstancesResponse:
        spec = pb.InstanceSpec(model=self.model, provider="local", region="local")
        instance = pb.Instance(id="m", spec=spec, state=self.state, job_id="j")
        instance.create_time.FromSeconds(self.asked_at)
        return pb.ListInstancesResponse(instances=[instance])

    def GetJob(self, _request: object, timeout: float) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=self.job)

    def reach(self, *steps: "pb.JobStep.ValueType") -> None:
        self.job.steps.extend(pb.StepProgress(step=step) for step in steps)

    def serve(self) -> None:
        self.state = pb.INSTANCE_STATE_ACTIVE
        self.node.status, self.node.reachable = registry_pb2.NODE_STATUS_ACTIVE, True


@pytest.fixture
def fleet() -> FakeFleet:
    fleet = FakeFleet()
    fleet.job.status = pb.JOB_STATUS_RUNNING
    return fleet


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """One in which the agent of `m` runs: this process."""
    folder = tmp_path / "machines" / "m"
    folder.mkdir(parents=True)
    (folder / "pid").write_text(f"{os.getpid()} {start_ticks()}")
    return RunDir(tmp_path)


def followed(fleet: Any, run_dir: RunDir) -> tuple[Launches, list[str]]:
    said: list[str] = []
    launches = Launches(client=fleet, plan=PLAN, run_dir=run_dir, model="x", progress=said.append, since=SINCE)
    return launches, said


def test_each_step_is_told_once_and_the_machine_counts_when_it_takes_requests(
    fleet: FakeFleet, run_dir: RunDir
) -> None:
    launches, said = followed(fleet, run_dir)
    fleet.reach(pb.JOB_STEP_VALIDATED, pb.JOB_STEP_PROVISIONING)
    assert (launches.look(), launches.look()) == (0, 0)
    fleet.reach(pb.JOB_STEP_AGENT_REGISTERED, pb.JOB_STEP_WEIGHTS_LOADING, pb.JOB_STEP_ACTIVE)
    assert launches.look() == 0
    fleet.serve()
    assert (launches.look(), launches.look()) == (1, 1)
    steps = ("provisioning", "agent registered", "weights loading", "active, 0 tokens/s measured")
    assert said == [f"machine m: {step}" for step in steps]


def test_bytes_of_weights_are_told_while_they_load(fleet: FakeFleet, run_dir: RunDir) -> None:
    launches, _ = followed(fleet, run_dir)
    loading = pb.StepProgress(step=pb.JOB_STEP_WEIGHTS_LOADING, bytes_done=3 * 2**20, bytes_total=10 * 2**20)
    fleet.job.steps.append(loading)
    assert launches.doing() == "m: weights loading, 3 of 10 MiB"


def test_a_machine_that_is_known_and_was_killed_is_not_counted(fleet: FakeFleet, run_dir: RunDir) -> None:
    fleet.serve()
    (run_dir.machines / "m" / "pid").write_text(f"{os.getpid()} 1")
    assert followed(fleet, run_dir)[0].look() == 0


def test_machines_of_another_model_are_not_counted(fleet: FakeFleet, run_dir: RunDir) -> None:
    fleet.serve()
    fleet.model = "y"
    assert followed(fleet, run_dir)[0].look() == 0


def test_a_launch_that_fails_ends_it_with_the_jobs_words_and_the_end_of_the_log(
    fleet: FakeFleet, run_dir: RunDir
) -> None:
    (run_dir.machines / "m" / "agent.log").write_text("what the agent said\n")
    fleet.job.error = "No room."
    with pytest.raises(DevError, match=r"machine m could not be launched. No room.\n.*\nwhat the agent said"):
        followed(fleet, run_dir)[0].look()


def test_a_launch_of_before_that_fails_now_is_nobodys_business(fleet: FakeFleet, run_dir: RunDir) -> None:
    fleet.job.error, fleet.asked_at = "The machine went away while it was made.", int(SINCE) - 60
    assert followed(fleet, run_dir)[0].look() == 0


def test_a_machine_that_somebody_ended_is_no_failure(fleet: FakeFleet, run_dir: RunDir) -> None:
    fleet.job.kind, fleet.state = pb.JOB_KIND_TERMINATE, pb.INSTANCE_STATE_TERMINATED
    assert followed(fleet, run_dir)[0].look() == 0

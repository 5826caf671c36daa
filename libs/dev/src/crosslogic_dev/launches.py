"""Follows the machines that the orchestrator launches here, step by step, until so many serve."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import grpc

from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from crosslogic.registry.v1 import registry_pb2
from crosslogic_dev.deployment import PROVIDER
from crosslogic_dev.failure import DevError
from crosslogic_dev.machines import machines_here
from crosslogic_dev.operator_client import OperatorClient
from crosslogic_dev.plan import Plan
from crosslogic_dev.processes import log_tail
from crosslogic_dev.progress import Progress
from crosslogic_dev.run_dir import RunDir
from crosslogic_dev.topology import REGION

_CALL_TIMEOUT_S = 5.0
_MOST_LISTED = 1_000
_CLOCK_SLACK_S = 1.0


@dataclass(slots=True, kw_only=True)
class Launches:
    """Machines of one model. A launch that was asked for before `since` may fail: nobody was told to wait for it."""

    client: OperatorClient
    plan: Plan
    run_dir: RunDir
    model: str
    progress: Progress
    since: float
    """Seconds since 1970."""
    _told: dict[str, int] = field(default_factory=dict, init=False)
    """Of each machine whose launch is followed, how many steps were told."""
    _serving: set[str] = field(default_factory=set, init=False)
    launched: list[str] = field(default_factory=list, init=False)
    """Machines that began to serve meanwhile."""

    def look(self) -> int:
        """Tells what is new, and how many machines serve. Raises DevError with the words of a launch that failed."""
        try:
            instances = self._instances()
            nodes = {node.id: node for node in self.client.nodes(self.plan.target("registry"))}
            followed = [(each, self._job(each)) for each in instances if self._is_followed(each)]
        except grpc.RpcError:
            # It is away for a moment, or for good: whoever waits looks at its process.
            return 0
        for instance, job in followed:
            self._tell(job)
            # One that was called off is a job of another kind by then.
            if job.error and job.kind == pb.JOB_KIND_LAUNCH and self._is_new(instance):
                raise DevError(self._with_logs(instance.id, job.error))
        self._tell_serving(instances, nodes)
        return len(self._serving)

    def doing(self) -> str:
        """What the launches that are under way wait for, in words."""
        try:
            jobs = [self._job(each) for each in self._instances() if each.state == pb.INSTANCE_STATE_LAUNCHING]
        except grpc.RpcError:
            return "the orchestrator does not answer"
        words = [f"{job.instance_id}: {_step(job.steps[-1])}" for job in jobs if job.steps]
        return "; ".join(words) or "no launch is under way"

    def _instances(self) -> list[pb.Instance]:
        request = pb.ListInstancesRequest(page_size=_MOST_LISTED, include_ended=True)
        stub = self.client.machines(self.plan.target("orchestrator"))
        return [
            each
            for each in stub.ListInstances(request, timeout=_CALL_TIMEOUT_S).instances
            if (each.spec.provider, each.spec.model, each.spec.region) == (PROVIDER, self.model, REGION)
        ]

    def _is_new(self, instance: pb.Instance) -> bool:
        return instance.create_time.ToMilliseconds() / 1000 > self.since - _CLOCK_SLACK_S

    def _is_followed(self, instance: pb.Instance) -> bool:
        """Its launch is under way, or is new and was not seen to its end."""
        if instance.state == pb.INSTANCE_STATE_LAUNCHING:
            return True
        return self._is_new(instance) and instance.id not in self._serving

    def _job(self, instance: pb.Instance) -> pb.Job:
        stub = self.client.machines(self.plan.target("orchestrator"))
        return stub.GetJob(pb.GetJobRequest(job_id=instance.job_id), timeout=_CALL_TIMEOUT_S).job

    def _tell(self, job: pb.Job) -> None:
        """Each step once, from the moment that there is a machine; the last is told with what the node can do."""
        told = self._told.get(job.instance_id, 0)
        self._told[job.instance_id] = len(job.steps)
        for step in job.steps[told:]:
            if pb.JOB_STEP_PROVISIONING <= step.step < pb.JOB_STEP_ACTIVE:
                self.progress(f"machine {job.instance_id}: {_step(step)}")

    def _tell_serving(self, instances: Collection[pb.Instance], nodes: Mapping[str, registry_pb2.Node]) -> None:
        active = {each.id for each in instances if each.state == pb.INSTANCE_STATE_ACTIVE}
        taking = {
            name for name, node in nodes.items() if node.status == registry_pb2.NODE_STATUS_ACTIVE and node.reachable
        }
        serving = active & taking & machines_here(self.run_dir).keys()
        for each in sorted(serving - self._serving):
            if each in self._told:
                self.progress(f"machine {each}: active, {nodes[each].facts.max_tokens_per_sec:.0f} tokens/s measured")
                self.launched.append(f"machine {each}")
        self._serving = serving

    def _with_logs(self, machine: str, why: str) -> str:
        folder = self.run_dir.machines / machine
        ends = [
            f"{log} ends with:\n{said}"
            for log in (folder / "agent.log", folder / "state" / "engine.log")
            if (said := log_tail(log))
        ]
        return "\n".join([f"machine {machine} could not be launched. {why}", *ends])


def _step(step: pb.StepProgress) -> str:
    """For people: `weights loading, 3 of 10 MiB`."""
    name = pb.JobStep.Name(step.step).removeprefix("JOB_STEP_").lower().replace("_", " ")
    if step.bytes_total:
        return f"{name}, {step.bytes_done / 2**20:.0f} of {step.bytes_total / 2**20:.0f} MiB"
    return f"{name} ({step.detail})" if step.detail else name

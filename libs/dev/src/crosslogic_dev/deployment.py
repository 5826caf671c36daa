"""What `make up` asks of the orchestrator: a deployment that keeps so many machines of the model here."""

from dataclasses import dataclass

import grpc

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic.orchestrator.v1 import deployments_pb2_grpc as rpc
from crosslogic_dev.certificates import OPERATOR, service_files
from crosslogic_dev.failure import DevError
from crosslogic_dev.operator_client import OperatorClient
from crosslogic_dev.plan import Plan
from crosslogic_dev.run_dir import RunDir
from crosslogic_dev.topology import REGION

PROVIDER = "local"
_CALL_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 3.0
_ACTS = (pb.DEPLOYMENT_MODE_UNSPECIFIED, pb.DEPLOYMENT_MODE_ACTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A deployment, and what it was before it was asked for more."""

    deployment: pb.Deployment
    before: pb.DeploymentSpec | None
    """None: there was none."""
    changed: bool
    """Whether anything was asked for that was not before."""


class Deployments:
    """The deployment of `make up`, with the orchestrator that looks after it."""

    def __init__(self, client: OperatorClient, target: str) -> None:
        """`target` is host:port of the orchestrator."""
        self._stub: rpc.DeploymentServiceStub = client.deployments(target)

    def ask(self, *, model: str, nodes: int, known_id: str, fresh: bool) -> Asked:
        """Sees to it that a deployment keeps at least so many machines of the model. Raises DevError.

        `known_id` is the deployment of before. `fresh`: nothing ran, and it must not bring back what it then asked for.
        """
        try:
            found = list(self._stub.ListDeployments(pb.ListDeploymentsRequest(), timeout=_CALL_TIMEOUT_S).deployments)
            if fresh:
                for old in [
                    each for each in found if _is_ours(each, model, known_id) and not _asks(each, model, nodes)
                ]:
                    self._end(old.id, timeout_s=_CALL_TIMEOUT_S)
                    found.remove(old)
            ours = next((each for each in found if _is_here(each, model)), None)
            if ours is None:
                return self._create(model, nodes)
            if ours.spec.mode not in _ACTS:
                raise DevError(f"The deployment {ours.id} of {model} is paused or a dry run: it launches nothing.")
            return self._grow(ours, nodes)
        except grpc.RpcError as error:
            raise DevError(f"The orchestrator did not take the deployment of {model}: {_why(error)}") from error

    def take_back(self, asked: Asked) -> bool:
        """Leaves what was before, so that a launch that fails is not tried again behind anybody's back.

        False: it stays, since the orchestrator does not answer.
        """
        if not asked.changed:
            return False
        if asked.before is None:
            return self.end(asked.deployment.id)
        try:
            self._update(asked.deployment.id, asked.before)
        except grpc.RpcError:
            return False
        return True

    def end(self, deployment_id: str) -> bool:
        """Ends a deployment. False: the orchestrator does not answer, or knows of none."""
        try:
            self._end(deployment_id, timeout_s=_END_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return True

    def _create(self, model: str, nodes: int) -> Asked:
        spec = pb.DeploymentSpec(
            model=model,
            region=REGION,
            min_nodes=nodes,
            max_nodes=nodes,
            constraints=pb.PlacementConstraints(providers=[PROVIDER]),
        )
        answer = self._stub.CreateDeployment(pb.CreateDeploymentRequest(spec=spec), timeout=_CALL_TIMEOUT_S)
        return Asked(deployment=answer.deployment, before=None, changed=True)

    def _grow(self, ours: pb.Deployment, nodes: int) -> Asked:
        if ours.spec.min_nodes >= nodes:
            return Asked(deployment=ours, before=ours.spec, changed=False)
        spec = pb.DeploymentSpec()
        spec.CopyFrom(ours.spec)
        spec.min_nodes, spec.max_nodes = nodes, max(nodes, spec.max_nodes)
        return Asked(deployment=self._update(ours.id, spec), before=ours.spec, changed=True)

    def _update(self, deployment_id: str, spec: pb.DeploymentSpec) -> pb.Deployment:
        request = pb.UpdateDeploymentRequest(deployment_id=deployment_id, spec=spec)
        return self._stub.UpdateDeployment(request, timeout=_CALL_TIMEOUT_S).deployment

    def _end(self, deployment_id: str, *, timeout_s: float) -> None:
        self._stub.DeleteDeployment(pb.DeleteDeploymentRequest(deployment_id=deployment_id), timeout=timeout_s)


def end_deployment(run_dir: RunDir) -> bool:
    """Ends what `make up` asked for, if its orchestrator answers: what is stopped next must not be replaced."""
    plan = Plan.load(run_dir)
    if plan is None or not plan.deployment_id or "orchestrator" not in plan.ports:
        return False
    with OperatorClient(service_files(run_dir.tls, OPERATOR)) as client:
        return Deployments(client, plan.target("orchestrator")).end(plan.deployment_id)


def _is_here(each: pb.Deployment, model: str) -> bool:
    return each.spec.model == model and each.spec.region == REGION


def _is_ours(each: pb.Deployment, model: str, known_id: str) -> bool:
    return each.id == known_id or _is_here(each, model)


def _asks(each: pb.Deployment, model: str, nodes: int) -> bool:
    return each.spec.model == model and each.spec.min_nodes == nodes


def _why(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return str(details() if details is not None else error)

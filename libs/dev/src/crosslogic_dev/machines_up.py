"""The nodes of `make up`: machines that its orchestrator launches, keeps and replaces."""

import time
from dataclasses import dataclass, field, replace

from crosslogic_dev.deployment import Asked, Deployments
from crosslogic_dev.failure import DevError
from crosslogic_dev.launches import Launches
from crosslogic_dev.operator_client import OperatorClient
from crosslogic_dev.plan import Plan
from crosslogic_dev.processes import ProcessTable
from crosslogic_dev.progress import Progress
from crosslogic_dev.topology import Topology

_POLL_S = 0.2
_SAY_SO_EVERY_S = 10.0
_ORCHESTRATOR = "orchestrator"


@dataclass(slots=True, kw_only=True)
class MachinesUp:
    """Asks for what is missing, tells how it comes, and waits until it serves."""

    topology: Topology
    client: OperatorClient
    table: ProcessTable
    progress: Progress
    begun: float
    """When this was begun, in seconds since 1970: launches of before may have failed."""
    plan: Plan = field(init=False)
    """With what was asked for."""

    def __post_init__(self) -> None:
        self.plan = self.topology.plan

    def bring_up(self, *, fresh: bool) -> list[str]:
        """Returns what had to be launched. Raises DevError, also with the words of a launch that failed.

        `fresh`: nothing ran before.
        """
        deployments = Deployments(self.client, self.plan.target(_ORCHESTRATOR))
        model = self.topology.engine.model
        asked = deployments.ask(model=model, nodes=self.plan.nodes, known_id=self.plan.deployment_id, fresh=fresh)
        self._keep(replace(self.plan, deployment_id=asked.deployment.id))
        if asked.changed:
            count = f"{self.plan.nodes} machine" + ("s" if self.plan.nodes > 1 else "")
            self.progress(f"asked for {count} of provider local, each with an engine ({self.plan.engine})")
        launches = Launches(
            client=self.client,
            plan=self.plan,
            run_dir=self.topology.run_dir,
            model=model,
            progress=self.progress,
            since=self.begun,
        )
        try:
            self._wait(launches)
        except DevError:
            if deployments.take_back(asked):
                self._keep(_without(self.plan, asked))
            raise
        return launches.launched

    def _wait(self, launches: Launches) -> None:
        begin = said_at = time.monotonic()
        # A launch ends by itself where a step takes too long. This is for what is not even launched.
        timeout_s = 60.0 + 2 * self.topology.engine.start_timeout_s
        while (serving := launches.look()) < self.plan.nodes:
            if self.table.pid(_ORCHESTRATOR) is None:
                raise DevError(f"{_ORCHESTRATOR} ended while launching; {self._said()}")
            now = time.monotonic()
            if now - begin > timeout_s:
                raise DevError(
                    f"{serving} of {self.plan.nodes} machines serve after {timeout_s:.0f} s. {launches.doing()}; "
                    f"{self._said()}"
                )
            if now - said_at > _SAY_SO_EVERY_S:
                said_at = now
                self.progress(
                    f"{serving} of {self.plan.nodes} machines serve ({now - begin:.0f} s). {launches.doing()}"
                )
            time.sleep(_POLL_S)

    def _keep(self, plan: Plan) -> None:
        self.plan = plan
        plan.save(self.topology.run_dir)

    def _said(self) -> str:
        return f"{self.topology.run_dir.log_file(_ORCHESTRATOR)} ends with:\n{self.table.tail(_ORCHESTRATOR)}"


def _without(plan: Plan, asked: Asked) -> Plan:
    """The plan once what was asked for is taken back."""
    if asked.before is None:
        return replace(plan, deployment_id="")
    return replace(plan, nodes=asked.before.min_nodes)

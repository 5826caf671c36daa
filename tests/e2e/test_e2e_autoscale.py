"""Deployments through the whole suite: machines come as asked; one that is taken away is replaced at the warning."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta

import pytest

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic.orchestrator.v1 import deployments_pb2_grpc as rpc
from crosslogic.orchestrator.v1 import orchestrator_pb2 as machines_pb
from crosslogic.orchestrator.v1 import orchestrator_pb2_grpc as machines_rpc
from crosslogic.registry.v1 import registry_pb2 as registry_pb
from crosslogic.registry.v1 import registry_pb2_grpc as registry_rpc
from crosslogic_common.tls import Channels
from crosslogic_dev.suite import Suite
from tests.e2e.conftest import simulated
from tests.fakes.e2e_load import Load, Seen

CLIENTS = 6
WITHIN = timedelta(seconds=1)
REGION = "local"


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    orchestrator = {"CROSSLOGIC_SWEEP_S": "1", "CROSSLOGIC_SCALE_S": "2"}
    with simulated(settings={"orchestrator": orchestrator}) as started:
        yield started


class Fleet:
    """The suite's control plane, as its operator sees it."""

    def __init__(self, suite: Suite, channels: Channels) -> None:
        orchestrator = channels.service("orchestrator", suite.target("orchestrator"))
        self.deployments: rpc.DeploymentServiceAsyncStub = rpc.DeploymentServiceStub(orchestrator)
        self.machines: machines_rpc.OrchestratorServiceAsyncStub = machines_rpc.OrchestratorServiceStub(orchestrator)
        self.registry: registry_rpc.RegistryServiceAsyncStub = registry_rpc.RegistryServiceStub(
            channels.service("registry", suite.target("registry"))
        )

    async def instances(self) -> dict[str, machines_pb.Instance]:
        """Machines that are not ended."""
        answer = await self.machines.ListInstances(machines_pb.ListInstancesRequest())
        return {instance.id: instance for instance in answer.instances}

    async def nodes(self) -> dict[str, registry_pb.Node]:
        """Every node."""
        answer = await self.registry.ListNodes(registry_pb.ListNodesRequest())
        return {node.id: node for node in answer.nodes}

    async def serving(self) -> set[str]:
        """Nodes that take requests."""
        return {name for name, node in (await self.nodes()).items() if node.status == registry_pb.NODE_STATUS_ACTIVE}


@contextlib.asynccontextmanager
async def operator(suite: Suite) -> AsyncIterator[Fleet]:
    channels = Channels(suite.tls())
    try:
        yield Fleet(suite, channels)
    finally:
        await channels.close()


async def listed(fleet: Fleet) -> pb.Deployment:
    """The only deployment."""
    [deployment] = (await fleet.deployments.ListDeployments(pb.ListDeploymentsRequest())).deployments
    return deployment


async def until_serving(fleet: Fleet, enough: Callable[[set[str]], bool]) -> set[str]:
    async with asyncio.timeout(150):
        while not enough(found := await fleet.serving()):
            await asyncio.sleep(0.1)
    return found


@contextlib.asynccontextmanager
async def asked(load: Load, seen: list[Seen]) -> AsyncIterator[None]:
    """Clients that ask one thing after the other for as long as the block lasts, and end what they began."""
    over = asyncio.Event()

    async def ask(client: int) -> None:
        while not over.is_set():
            seen.append(Seen(stream=client % 2 == 0))
            await load.one(len(seen), seen[-1])

    async with asyncio.TaskGroup() as group:
        for client in range(CLIENTS):
            group.create_task(ask(client))
        try:
            yield
        finally:
            over.set()


async def test_warning_of_a_machines_end_asks_for_another_within_a_second_and_no_request_fails(suite: Suite) -> None:
    spec = pb.DeploymentSpec(model=suite.model_name, region=REGION, min_nodes=3, max_nodes=3)
    async with operator(suite) as fleet:
        [own] = await until_serving(fleet, lambda found: len(found) == 1)
        deployment = (await fleet.deployments.CreateDeployment(pb.CreateDeploymentRequest(spec=spec))).deployment
        await until_serving(fleet, lambda found: len(found) == 4)
        await fleet.registry.DrainNode(registry_pb.DrainNodeRequest(node_id=own))
        before = await until_serving(fleet, lambda found: own not in found and len(found) == 3)

        seen: list[Seen] = []
        doomed = min(before)
        async with Load(suite, max_tokens=20) as load, asked(load, seen):
            while len(seen) < 3 * CLIENTS:
                await asyncio.sleep(0.01)
            (suite.run_dir.machines / doomed / "state" / "spot-notice").touch()
            await until_serving(fleet, lambda found: len(found) == 3 and doomed not in found)
        failed = [each for each in seen if not each.complete]
        assert failed == []

        events = (await fleet.deployments.ListFleetEvents(pb.ListFleetEventsRequest())).events
        [asked_for] = [event for event in events if event.kind == "replacement_requested" and doomed in event.text]
        replacement = (await fleet.instances())[asked_for.instance_id]
        noticed = (await fleet.nodes())[doomed].spot_notice.notice_time.ToDatetime()
        assert replacement.create_time.ToDatetime() - noticed < WITHIN

        told = await fleet.deployments.ListDecisions(pb.ListDecisionsRequest(deployment_id=deployment.id))
        replacing = [launch for decision in told.decisions for launch in decision.launches]
        assert [each.instance_id for each in replacing if each.replaces_instance_id == doomed] == [
            asked_for.instance_id
        ]

        await fleet.deployments.DeleteDeployment(pb.DeleteDeploymentRequest(deployment_id=deployment.id))
        await fleet.registry.ResumeNode(registry_pb.ResumeNodeRequest(node_id=own))
        async with asyncio.timeout(150):
            while await fleet.instances():
                await asyncio.sleep(0.2)


async def test_plan_says_what_would_be_done_and_does_nothing(suite: Suite) -> None:
    spec = pb.DeploymentSpec(
        model=suite.model_name, region=REGION, min_nodes=2, max_nodes=4, mode=pb.DEPLOYMENT_MODE_DRY_RUN
    )
    async with operator(suite) as fleet:
        deployment = (await fleet.deployments.CreateDeployment(pb.CreateDeploymentRequest(spec=spec))).deployment
        plan = await fleet.deployments.PlanDeployment(pb.PlanDeploymentRequest(deployment_id=deployment.id))
        assert plan.decision.desired == 2
        assert [launch.why for launch in plan.decision.launches] == ["min: `min_nodes` is 2"] * 2
        assert [(offer.provider, offer.region) for offer in plan.offers] == [("local", REGION)]
        other = pb.DeploymentSpec(max_nodes=4, min_nodes=4)
        plan = await fleet.deployments.PlanDeployment(pb.PlanDeploymentRequest(deployment_id=deployment.id, spec=other))
        assert len(plan.decision.launches) == 4
        async with asyncio.timeout(60):
            while not (kept := await listed(fleet)).HasField("decision"):
                await asyncio.sleep(0.1)
        assert kept.decision.dry_run
        assert kept.decision.desired == 2
        assert await fleet.instances() == {}
        await fleet.deployments.DeleteDeployment(pb.DeleteDeploymentRequest(deployment_id=deployment.id))


async def test_request_for_a_model_that_was_scaled_to_nothing_waits_for_its_machine(suite: Suite) -> None:
    spec = pb.DeploymentSpec(model=suite.model_name, region=REGION, max_nodes=1)
    spec.scale_down_cooldown.FromSeconds(5)
    async with operator(suite) as fleet, Load(suite, max_tokens=4) as load:
        [own] = await until_serving(fleet, lambda found: len(found) == 1)
        await fleet.registry.DrainNode(registry_pb.DrainNodeRequest(node_id=own))
        await until_serving(fleet, lambda found: not found)
        refused = Seen(stream=False)
        async with asyncio.timeout(60):
            while refused.status != 503:
                # The scheduler hears of the drain a moment later.
                await load.one(0, refused)
        deployment = (await fleet.deployments.CreateDeployment(pb.CreateDeploymentRequest(spec=spec))).deployment
        # What was learnt without a deployment is forgotten after some seconds.
        seen = Seen(stream=True)
        async with asyncio.timeout(150):
            while not seen.complete:
                seen = await load.one(1, Seen(stream=True))
        assert (await listed(fleet)).id == deployment.id
        told = await fleet.deployments.ListDecisions(pb.ListDecisionsRequest(deployment_id=deployment.id))
        launches = [launch for decision in told.decisions for launch in decision.launches]
        assert launches[-1].why.startswith("wake: ")
        async with asyncio.timeout(150):
            while await fleet.instances():
                await asyncio.sleep(0.2)
        await fleet.deployments.DeleteDeployment(pb.DeleteDeploymentRequest(deployment_id=deployment.id))
        await fleet.registry.ResumeNode(registry_pb.ResumeNodeRequest(node_id=own))

"""Deployments: how many machines a model has at a place, and why."""

from typing import Any, Literal, cast

from google.protobuf.duration_pb2 import Duration

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin import deployment_schemas as schemas
from crosslogic_gateway.admin.conversion import text_or_none, time
from crosslogic_gateway.admin.deployment_stub import DeploymentStub
from crosslogic_gateway.admin.money import picodollars_of, usd
from crosslogic_gateway.admin.operation import Call


async def create_deployment(call: Call[schemas.NewDeployment, None]) -> schemas.ScaledDeployment:
    """POST /admin/deployments."""
    spec = _spec(call.body)
    spec.model, spec.region = call.body.model, call.deps.regions.code(call.body.region)
    return _deployment((await call.rpc(_stub(call).CreateDeployment, pb.CreateDeploymentRequest(spec=spec))).deployment)


async def list_deployments(call: Call[None, None]) -> schemas.ScaledDeploymentList:
    """GET /admin/deployments."""
    found = await call.rpc(_stub(call).ListDeployments, pb.ListDeploymentsRequest())
    return schemas.ScaledDeploymentList(data=[_deployment(each) for each in found.deployments])


async def update_deployment(call: Call[schemas.ChangedDeployment, None]) -> schemas.ScaledDeployment:
    """PUT /admin/deployments/{id}."""
    request = pb.UpdateDeploymentRequest(
        deployment_id=call.path["id"], spec=_spec(call.body), revision=call.body.revision
    )
    return _deployment((await call.rpc(_stub(call).UpdateDeployment, request)).deployment)


async def delete_deployment(call: Call[None, None]) -> schemas.EndedDeployment:
    """DELETE /admin/deployments/{id}."""
    await call.rpc(_stub(call).DeleteDeployment, pb.DeleteDeploymentRequest(deployment_id=call.path["id"]))
    return schemas.EndedDeployment(id=call.path["id"])


async def plan_deployment(call: Call[None, None]) -> schemas.DeploymentPlan:
    """GET /admin/deployments/{id}/plan."""
    request = pb.PlanDeploymentRequest(deployment_id=call.path["id"])
    plan = await call.rpc(_stub(call).PlanDeployment, request)
    return schemas.DeploymentPlan(decision=_decision(plan.decision), offers=[_launch(each) for each in plan.offers])


async def list_decisions(call: Call[None, schemas.DecisionsQuery]) -> schemas.DecisionList:
    """GET /admin/deployments/{id}/decisions."""
    request = pb.ListDecisionsRequest(
        deployment_id=call.path["id"], page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(_stub(call).ListDecisions, request)
    return schemas.DecisionList(
        data=[_decision(each) for each in page.decisions], next_page_token=text_or_none(page.next_page_token)
    )


def _stub(call: Call[Any, Any]) -> DeploymentStub:
    if call.deps.deployments is None:
        raise CodedError(
            ErrorCode.NOT_SUPPORTED, "This gateway has no orchestrator: set CROSSLOGIC_ORCHESTRATOR_TARGET."
        )
    return call.deps.deployments()


def _spec(wishes: schemas.Wishes) -> pb.DeploymentSpec:
    wanted = wishes.constraints
    return pb.DeploymentSpec(
        min_nodes=wishes.min_nodes,
        max_nodes=wishes.max_nodes,
        spot_share=wishes.spot_share,
        on_demand_floor=wishes.on_demand_floor,
        warm_spares=wishes.warm_spares,
        strategy=pb.PlacementStrategy.Value(f"PLACEMENT_STRATEGY_{wishes.strategy.upper()}"),
        constraints=pb.PlacementConstraints(
            providers=wanted.providers,
            regions=wanted.regions,
            instance_types=wanted.instance_types,
            gpu=wanted.gpu,
            min_vram_bytes=wanted.min_vram_bytes,
        ),
        max_spend_picodollars=picodollars_of(wishes.max_usd_per_hour),
        slo_first_token_ms=wishes.slo_first_token_ms,
        target_utilisation=wishes.target_utilisation,
        scale_up_cooldown=_duration(wishes.scale_up_cooldown_s),
        scale_down_cooldown=_duration(wishes.scale_down_cooldown_s),
        cold_start_wait=_duration(wishes.cold_start_wait_s),
        cold_start_queue=wishes.cold_start_queue,
        mode=pb.DeploymentMode.Value(f"DEPLOYMENT_MODE_{wishes.mode.upper()}"),
    )


def _deployment(deployment: pb.Deployment) -> schemas.ScaledDeployment:
    spec, wanted = deployment.spec, deployment.spec.constraints
    strategy = pb.PlacementStrategy.Name(spec.strategy).removeprefix("PLACEMENT_STRATEGY_").lower()
    mode = pb.DeploymentMode.Name(spec.mode).removeprefix("DEPLOYMENT_MODE_").lower()
    return schemas.ScaledDeployment(
        id=deployment.id,
        model=spec.model,
        region=spec.region,
        revision=deployment.revision,
        create_time=time(deployment.create_time),
        update_time=time(deployment.update_time),
        decision=_decision(deployment.decision) if deployment.HasField("decision") else None,
        wishes=schemas.Wishes(
            min_nodes=spec.min_nodes,
            max_nodes=spec.max_nodes,
            spot_share=spec.spot_share,
            on_demand_floor=spec.on_demand_floor,
            warm_spares=spec.warm_spares,
            strategy=cast("Literal['cost', 'spread', 'availability']", strategy),
            constraints=schemas.Constraints(
                providers=list(wanted.providers),
                regions=list(wanted.regions),
                instance_types=list(wanted.instance_types),
                gpu=wanted.gpu,
                min_vram_bytes=wanted.min_vram_bytes,
            ),
            max_usd_per_hour=usd(spec.max_spend_picodollars),
            slo_first_token_ms=spec.slo_first_token_ms,
            target_utilisation=spec.target_utilisation,
            scale_up_cooldown_s=_seconds(spec.scale_up_cooldown),
            scale_down_cooldown_s=_seconds(spec.scale_down_cooldown),
            cold_start_wait_s=_seconds(spec.cold_start_wait),
            cold_start_queue=spec.cold_start_queue,
            mode=cast("Literal['active', 'dry_run', 'paused']", mode),
        ),
    )


def _decision(decision: pb.Decision) -> schemas.Decision:
    return schemas.Decision(
        sequence=decision.sequence,
        time=time(decision.time),
        desired=decision.desired,
        kept=decision.kept,
        needs=[schemas.Need(signal=need.signal, nodes=need.nodes, why=need.why) for need in decision.needs],
        launches=[_launch(each) for each in decision.launches],
        ends=[schemas.PlannedEnd(instance_id=end.instance_id, why=end.why) for end in decision.ends],
        held=list(decision.held),
        dry_run=decision.dry_run,
    )


def _launch(launch: pb.PlannedLaunch) -> schemas.PlannedLaunch:
    return schemas.PlannedLaunch(
        provider=launch.provider,
        region=launch.region,
        instance_type=launch.instance_type,
        use_spot=launch.use_spot,
        hourly_price_usd=usd(launch.price_picodollars),
        expected_hourly_price_usd=usd(launch.expected_price_picodollars),
        why=launch.why,
        placement_why=launch.placement_why,
        replaces_instance_id=text_or_none(launch.replaces_instance_id),
        instance_id=text_or_none(launch.instance_id),
    )


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromMilliseconds(round(seconds * 1_000))
    return message


def _seconds(message: Duration) -> float:
    return message.seconds + message.nanos / 1e9

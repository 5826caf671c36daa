"""Deployments and decisions as messages."""

import json
from datetime import datetime
from typing import Any, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic_common.clock import timestamp
from crosslogic_orchestrator.scaling.domain import Constraints, Deployment, Mode, Offer, Plan, Strategy
from crosslogic_orchestrator.scaling.records import DecisionRow, EventRow, Kept, plan_json

_STRATEGIES: dict[int, Strategy] = {
    pb.PLACEMENT_STRATEGY_UNSPECIFIED: "cost",
    pb.PLACEMENT_STRATEGY_COST: "cost",
    pb.PLACEMENT_STRATEGY_SPREAD: "spread",
    pb.PLACEMENT_STRATEGY_AVAILABILITY: "availability",
}
_MODES: dict[int, Mode] = {
    pb.DEPLOYMENT_MODE_UNSPECIFIED: "active",
    pb.DEPLOYMENT_MODE_ACTIVE: "active",
    pb.DEPLOYMENT_MODE_DRY_RUN: "dry_run",
    pb.DEPLOYMENT_MODE_PAUSED: "paused",
}
_DEFAULT = Deployment(id="", model="", region="")


def deployment_from(spec: pb.DeploymentSpec) -> Deployment:
    """What is asked for; what is not set is as the contract says. Values are not checked here."""
    wanted = spec.constraints
    return Deployment(
        id="",
        model=spec.model,
        region=spec.region,
        min_nodes=spec.min_nodes,
        max_nodes=spec.max_nodes,
        spot_share=spec.spot_share,
        on_demand_floor=spec.on_demand_floor,
        warm_spares=spec.warm_spares,
        strategy=_STRATEGIES.get(spec.strategy, "cost"),
        constraints=Constraints(
            providers=tuple(wanted.providers),
            regions=tuple(wanted.regions),
            instance_types=tuple(wanted.instance_types),
            gpu=wanted.gpu,
            min_vram_bytes=wanted.min_vram_bytes,
        ),
        max_spend_picodollars=spec.max_spend_picodollars,
        slo_first_token_ms=spec.slo_first_token_ms or _DEFAULT.slo_first_token_ms,
        target_utilisation=spec.target_utilisation or _DEFAULT.target_utilisation,
        scale_up_cooldown_s=_seconds(spec, "scale_up_cooldown", _DEFAULT.scale_up_cooldown_s),
        scale_down_cooldown_s=_seconds(spec, "scale_down_cooldown", _DEFAULT.scale_down_cooldown_s),
        cold_start_wait_s=_seconds(spec, "cold_start_wait", _DEFAULT.cold_start_wait_s),
        cold_start_queue=spec.cold_start_queue or _DEFAULT.cold_start_queue,
        mode=_MODES.get(spec.mode, "active"),
    )


def deployment_message(kept: Kept, newest: DecisionRow | None = None) -> pb.Deployment:
    """As it is kept."""
    deployment = kept.deployment
    wanted = deployment.constraints
    return pb.Deployment(
        id=deployment.id,
        revision=deployment.revision,
        create_time=timestamp(kept.created_at),
        update_time=timestamp(kept.updated_at),
        decision=None if newest is None else decision_message(newest),
        spec=pb.DeploymentSpec(
            model=deployment.model,
            region=deployment.region,
            min_nodes=deployment.min_nodes,
            max_nodes=deployment.max_nodes,
            spot_share=deployment.spot_share,
            on_demand_floor=deployment.on_demand_floor,
            warm_spares=deployment.warm_spares,
            strategy=pb.PlacementStrategy.Value(f"PLACEMENT_STRATEGY_{deployment.strategy.upper()}"),
            constraints=pb.PlacementConstraints(
                providers=wanted.providers,
                regions=wanted.regions,
                instance_types=wanted.instance_types,
                gpu=wanted.gpu,
                min_vram_bytes=wanted.min_vram_bytes,
            ),
            max_spend_picodollars=deployment.max_spend_picodollars,
            slo_first_token_ms=deployment.slo_first_token_ms,
            target_utilisation=deployment.target_utilisation,
            scale_up_cooldown=duration(deployment.scale_up_cooldown_s),
            scale_down_cooldown=duration(deployment.scale_down_cooldown_s),
            cold_start_wait=duration(deployment.cold_start_wait_s),
            cold_start_queue=deployment.cold_start_queue,
            mode=pb.DeploymentMode.Value(f"DEPLOYMENT_MODE_{deployment.mode.upper()}"),
        ),
    )


def decision_message(row: DecisionRow) -> pb.Decision:
    """A decision as it is kept."""
    message = ParseDict(cast("dict[str, Any]", row.body), pb.Decision(), ignore_unknown_fields=True)
    message.sequence = row.seq
    message.time.CopyFrom(timestamp(row.at))
    return message


def plan_message(plan: Plan, at: datetime) -> pb.Decision:
    """A decision that is only a plan."""
    return decision_message(DecisionRow(0, at, plan_json(plan, dry_run=True)))


def offer_message(offer: Offer) -> pb.PlannedLaunch:
    """What can be had."""
    return pb.PlannedLaunch(
        provider=offer.provider,
        region=offer.region,
        instance_type=offer.instance_type,
        use_spot=offer.spot,
        price_picodollars=offer.price_picodollars,
        expected_price_picodollars=offer.expected_price_picodollars,
        placement_why=offer.why,
    )


def event_message(event: EventRow) -> pb.FleetEvent:
    """Something that happened."""
    return pb.FleetEvent(
        sequence=event.seq,
        kind=event.kind,
        org_id=event.org_id,
        deployment_id=event.deployment_id,
        instance_id=event.instance_id,
        time=timestamp(event.at),
        text=event.text,
        details_json=json.dumps(event.details),
    )


def duration(seconds: float) -> Duration:
    """Seconds as a message, to the millisecond."""
    message = Duration()
    message.FromMilliseconds(round(seconds * 1_000))
    return message


def _seconds(spec: pb.DeploymentSpec, name: str, default: float) -> float:
    if not spec.HasField(name):  # type: ignore[arg-type]  # the names are those of the message
        return default
    value: Duration = getattr(spec, name)
    return value.seconds + value.nanos / 1e9

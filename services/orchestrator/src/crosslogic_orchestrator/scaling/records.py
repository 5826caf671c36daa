"""What is kept of deployments and decisions, and how it is written as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from crosslogic_orchestrator.domain import Instance
from crosslogic_orchestrator.scaling.domain import Constraints, Deployment, History, Plan
from crosslogic_orchestrator.scaling.placement import Lived

EventKind = str
"""`scale_up`, `scale_down`, `replacement_requested`, `scale_held`, `launch_failed`, `node_lost`, `fleet_silent`,
`machine_not_ended` or `machine_abandoned`."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A deployment as the database keeps it."""

    deployment: Deployment
    created_at: datetime
    updated_at: datetime
    scaled_up_at: datetime | None
    scaled_down_at: datetime | None


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of a deployment."""

    deployment_id: str
    instance: Instance
    replaces: str


@dataclass(frozen=True, slots=True)
class Attempts:
    """How launches of a deployment lately went."""

    failed_in_a_row: int = 0
    failed_at: datetime | None = None
    failing_places: frozenset[str] = frozenset()
    start_s: float | None = None
    """Median from the request to serving. None: none ever served."""


NO_ATTEMPTS = Attempts()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that the database knows for one look at the deployments."""

    deployments: tuple[Kept, ...]
    machines: tuple[Machine, ...]
    """Not ended, of any deployment."""
    attempts: Mapping[str, Attempts]
    """By deployment."""
    lived: Mapping[str, Lived]
    """Of spot machines, by place."""
    waiting: Mapping[str, int]
    """Requests that gateways hold, by deployment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision to be carried out and kept."""

    kept: Kept
    plan: Plan
    history: History
    at: datetime
    act: bool
    """Whether machines are asked for; False: it is only written down."""


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision as it is kept."""

    seq: int
    at: datetime
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened."""

    seq: int
    kind: EventKind
    org_id: str
    deployment_id: str
    instance_id: str
    at: datetime
    text: str
    details: Mapping[str, Any]


def asked_json(deployment: Deployment) -> dict[str, Any]:
    """What a deployment asks for."""
    found = asdict(deployment)
    for name in ("id", "model", "region", "revision"):
        del found[name]
    return found


def deployment_of(
    asked: Mapping[str, Any], *, deployment_id: str, model: str, region: str, revision: int
) -> Deployment:
    """A deployment from what `asked_json` wrote."""
    values = dict(asked)
    constraints: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.pop("constraints").items()
    }
    return Deployment(
        id=deployment_id,
        model=model,
        region=region,
        revision=revision,
        constraints=Constraints(**constraints),
        **values,
    )


def plan_json(plan: Plan, *, launched: tuple[str, ...] = (), dry_run: bool = False) -> dict[str, Any]:
    """A decision; `launched` are the machines, in the order of the plan's launches."""
    return {
        "desired": plan.desired,
        "kept": plan.kept,
        "needs": [asdict(need) for need in plan.needs],
        "launches": [
            {
                "provider": launch.offer.provider,
                "region": launch.offer.region,
                "instance_type": launch.offer.instance_type,
                "use_spot": launch.offer.spot,
                "price_picodollars": launch.offer.price_picodollars,
                "expected_price_picodollars": launch.offer.expected_price_picodollars,
                "why": launch.why,
                "placement_why": launch.offer.why,
                "replaces_instance_id": launch.replaces,
                "instance_id": launched[number] if number < len(launched) else "",
            }
            for number, launch in enumerate(plan.launches)
        ],
        "ends": [{"instance_id": end.member_id, "why": end.why} for end in plan.ends],
        "held": list(plan.held),
        "dry_run": dry_run,
    }

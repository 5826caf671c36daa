"""Where and how models are served: deployments and the region table."""

from collections.abc import Iterable

from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.regions import RegionTable
from crosslogic_gateway.admin import placement_schemas as schemas
from crosslogic_gateway.admin.decoding import field_error
from crosslogic_gateway.admin.operation import Call
from crosslogic_gateway.admin.schemas import Deployment, StrategyName

_STRATEGIES: dict[StrategyName, pb.PickStrategy.ValueType] = {
    "least_load": pb.PICK_STRATEGY_LEAST_LOAD,
    "round_robin": pb.PICK_STRATEGY_ROUND_ROBIN,
    "least_connections": pb.PICK_STRATEGY_LEAST_CONNECTIONS,
    "least_latency": pb.PICK_STRATEGY_LEAST_LATENCY,
    "prefix_affinity": pb.PICK_STRATEGY_PREFIX_AFFINITY,
}
_NAMES = {value: name for name, value in _STRATEGIES.items()}


async def replace_deployments(call: Call[schemas.NewDeployments, None]) -> schemas.ServedModel:
    """PUT /admin/models/{model}/deployments."""
    request = pb.ReplaceDeploymentsRequest(
        model=call.path["model"], deployments=deployments_to(call.body.deployments, call.deps.regions)
    )
    model = (await call.rpc(call.deps.registry().ReplaceDeployments, request)).model
    return schemas.ServedModel(name=model.name, deployments=deployments_from(model.deployments))


async def list_regions(call: Call[None, None]) -> schemas.RegionList:
    """GET /admin/regions."""
    return schemas.RegionList(
        data=[
            schemas.RegionRow(
                code=region.code,
                name=region.name,
                aliases=list(region.aliases),
                countries=list(region.countries),
                clouds=dict(region.clouds),
                cost_multiplier=str(region.cost_multiplier),
                node_pools=list(region.node_pools),
                fallback=list(region.fallback),
            )
            for region in call.deps.regions.regions.values()
        ]
    )


def deployments_to(deployments: Iterable[Deployment], regions: RegionTable) -> list[pb.Deployment]:
    """As the registry keeps them: regions by their code. Raises INVALID_ARGUMENT for a region that is named twice."""
    found = {regions.code(each.region): each for each in deployments}
    if len(found) < len(list(deployments)):
        raise field_error("deployments", "each region may be named once")
    return [pb.Deployment(region=code, strategy=_STRATEGIES[each.strategy]) for code, each in found.items()]


def deployments_from(deployments: Iterable[pb.Deployment]) -> list[Deployment]:
    """As operators see them."""
    return [Deployment(region=each.region, strategy=_NAMES.get(each.strategy, "least_load")) for each in deployments]


def region_code(regions: RegionTable, region: str, country: str) -> str:
    """The region that a new environment is pinned to: the one named, else its country's. Empty: anywhere.

    Raises INVALID_ARGUMENT for a country that no region is there for.
    """
    if region or not country:
        return regions.code(region)
    found = regions.for_country(country)
    if found is None:
        raise field_error("country", "no region is there for it: name a `region`")
    return found.code


def region_codes(regions: RegionTable, names: Iterable[str]) -> list[str]:
    """Regions by their codes, each once, in the order given: lists that name one region differently must agree."""
    return list(dict.fromkeys(regions.code(name) for name in names))

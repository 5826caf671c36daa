"""Bodies and answers of the admin API about where and how models are served."""

from typing import Annotated

from msgspec import Meta, Struct, field

from crosslogic_gateway.admin.schemas import Asked, Deployment, Deployments


class NewDeployments(Asked):
    """How a model is served, region by region, in place of what was said before."""

    deployments: Deployments


class ServedModel(Struct, kw_only=True):
    """A model and how it is served."""

    name: str
    deployments: list[Deployment]


class RegionRow(Struct, kw_only=True):
    """A region of the table."""

    code: Annotated[str, Meta(description="What environments are pinned to and usage is recorded under.")]
    name: str
    aliases: Annotated[list[str], Meta(description="Other names that mean the same region.")]
    countries: Annotated[list[str], Meta(description="ISO 3166-1 codes of those pinned here by default.")]
    clouds: Annotated[dict[str, str], Meta(description="The region's name at each cloud.")]
    cost_multiplier: Annotated[str, Meta(description="Of the price list, a decimal.")]
    node_pools: list[str]
    fallback: Annotated[list[str], Meta(description="Regions that take a share while this one is down, in order.")]


class RegionList(Struct, kw_only=True):
    """The region table, in its order."""

    data: list[RegionRow] = field(default_factory=list)

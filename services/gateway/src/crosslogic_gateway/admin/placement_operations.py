"""Operations about where and how models are served."""

from typing import Any

from crosslogic_gateway.admin import placement, placement_schemas
from crosslogic_gateway.admin.access import ANYBODY
from crosslogic_gateway.admin.operation import Operation

PLACEMENT_OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        method="PUT",
        path="/admin/models/{model}/deployments",
        name="replaceDeployments",
        summary="Say how a model is served, region by region",
        tag="Models",
        handle=placement.replace_deployments,
        body=placement_schemas.NewDeployments,
        answer=placement_schemas.ServedModel,
        errors=(404, 415),
    ),
    Operation(
        method="GET",
        path="/admin/regions",
        name="listRegions",
        access=ANYBODY,
        summary="Show the region table",
        tag="Regions",
        handle=placement.list_regions,
        answer=placement_schemas.RegionList,
    ),
)

"""Operations about model upgrades."""

from typing import Any

from crosslogic_gateway.admin import upgrade_schemas as schemas
from crosslogic_gateway.admin import upgrades
from crosslogic_gateway.admin.operation import Operation
from crosslogic_gateway.admin.schemas import PageQuery

_TAG = "Upgrades"

UPGRADE_OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        method="POST",
        path="/admin/models/{model}/upgrades",
        name="createModelUpgrade",
        summary="Take a model to another version while it serves",
        tag=_TAG,
        handle=upgrades.create_upgrade,
        body=schemas.NewUpgrade,
        answer=schemas.Upgrade,
        status=201,
        idempotent_by_key=True,
        errors=(404, 409, 415),
    ),
    Operation(
        method="GET",
        path="/admin/models/{model}/upgrades",
        name="listModelUpgrades",
        summary="List a model's upgrades, newest first",
        tag=_TAG,
        handle=upgrades.list_upgrades,
        query=PageQuery,
        answer=schemas.UpgradeList,
    ),
    Operation(
        method="GET",
        path="/admin/upgrades/{id}",
        name="getModelUpgrade",
        summary="Get an upgrade and what was seen of both versions",
        tag=_TAG,
        handle=upgrades.get_upgrade,
        answer=schemas.Upgrade,
        errors=(404,),
    ),
    Operation(
        method="POST",
        path="/admin/upgrades/{id}/roll-back",
        name="rollBackModelUpgrade",
        summary="Send all traffic back to the old version",
        tag=_TAG,
        handle=upgrades.roll_back,
        body=schemas.NewRollBack,
        body_optional=True,
        answer=schemas.Upgrade,
        errors=(404, 409, 415),
    ),
)

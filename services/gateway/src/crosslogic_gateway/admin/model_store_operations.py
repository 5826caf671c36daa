"""Operations about versions of models and the environments that serve them."""

from typing import Any

from crosslogic_gateway.admin import model_store
from crosslogic_gateway.admin import model_store_schemas as schemas
from crosslogic_gateway.admin.operation import Operation
from crosslogic_gateway.admin.schemas import PageQuery

_TAG = "Model store"
_BASE = "/admin/registered-models"

MODEL_STORE_OPERATIONS: tuple[Operation[Any, Any], ...] = (
    Operation(
        method="POST",
        path="/admin/model-versions",
        name="addModelVersion",
        summary="Tell of a version of a model that lies in object storage",
        tag=_TAG,
        handle=model_store.add_version,
        body=schemas.NewModelVersion,
        answer=schemas.ModelVersion,
        status=201,
        errors=(415,),
    ),
    Operation(
        method="GET",
        path="/admin/model-versions",
        name="listModelVersions",
        summary="List versions of models, newest first",
        tag=_TAG,
        handle=model_store.list_versions,
        query=schemas.VersionQuery,
        answer=schemas.ModelVersionList,
    ),
    Operation(
        method="POST",
        path=_BASE,
        name="registerModel",
        summary="Put a model into an environment",
        tag=_TAG,
        handle=model_store.register,
        body=schemas.NewRegisteredModel,
        answer=schemas.RegisteredModel,
        status=201,
        errors=(404, 409, 415),
    ),
    Operation(
        method="GET",
        path=_BASE,
        name="listRegisteredModels",
        summary="List models by environment, with how they are",
        tag=_TAG,
        handle=model_store.list_registered,
        query=PageQuery,
        answer=schemas.RegisteredModelList,
    ),
    Operation(
        method="POST",
        path=f"{_BASE}/enable",
        name="enableModel",
        summary="Offer a model to clients",
        tag=_TAG,
        handle=model_store.enable,
        body=schemas.ModelNamed,
        answer=schemas.RegisteredModel,
        errors=(404, 415),
    ),
    Operation(
        method="POST",
        path=f"{_BASE}/disable",
        name="disableModel",
        summary="Offer a model no longer",
        tag=_TAG,
        handle=model_store.disable,
        body=schemas.ModelNamed,
        answer=schemas.RegisteredModel,
        errors=(404, 415),
    ),
    Operation(
        method="POST",
        path=f"{_BASE}/promote",
        name="promoteModel",
        summary="Bring a version to another environment, if every gate is passed",
        tag=_TAG,
        handle=model_store.promote,
        idempotent_by_key=True,
        body=schemas.NewPromotion,
        answer=schemas.Promotion,
        errors=(404, 409, 415),
    ),
    Operation(
        method="POST",
        path=f"{_BASE}/roll-back",
        name="rollBackModel",
        summary="Bring back the version that an environment had before",
        tag=_TAG,
        handle=model_store.roll_back,
        idempotent_by_key=True,
        body=schemas.ModelNamed,
        answer=schemas.RegisteredModel,
        errors=(404, 409, 415),
    ),
    Operation(
        method="POST",
        path=f"{_BASE}/deregister",
        name="deregisterModel",
        summary="Take a model out of its environment",
        tag=_TAG,
        handle=model_store.deregister,
        body=schemas.ModelNamed,
        answer=schemas.Gone,
        errors=(404, 415),
    ),
)

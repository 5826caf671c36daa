"""Versions of models, and the environments that serve them."""

from typing import Any

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic.registry.v1 import registry_pb2
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin import model_store_schemas as schemas
from crosslogic_gateway.admin.conversion import optional_time, text_or_none, time
from crosslogic_gateway.admin.fleet import price_of
from crosslogic_gateway.admin.model_store_stub import ModelStoreStub
from crosslogic_gateway.admin.operation import Call
from crosslogic_gateway.admin.schemas import PageQuery

_ENVIRONMENTS: dict[schemas.EnvironmentName, "pb.ModelEnvironment.ValueType"] = {
    "development": pb.MODEL_ENVIRONMENT_DEVELOPMENT,
    "staging": pb.MODEL_ENVIRONMENT_STAGING,
    "production": pb.MODEL_ENVIRONMENT_PRODUCTION,
}
_ENVIRONMENT_NAMES = {value: name for name, value in _ENVIRONMENTS.items()}
_STATUS: dict[int, schemas.StatusName] = {
    pb.MODEL_STATUS_SERVING: "serving",
    pb.MODEL_STATUS_OTHER_VERSION: "other_version",
    pb.MODEL_STATUS_NO_NODES: "no_nodes",
    pb.MODEL_STATUS_DISABLED: "disabled",
}


async def add_version(call: Call[schemas.NewModelVersion, None]) -> schemas.ModelVersion:
    """POST /admin/model-versions."""
    request = pb.AddModelVersionRequest(manifest=call.body.manifest.encode())
    return _version((await call.rpc(_stub(call).AddModelVersion, request)).version)


async def list_versions(call: Call[None, schemas.VersionQuery]) -> schemas.ModelVersionList:
    """GET /admin/model-versions."""
    request = pb.ListModelVersionsRequest(
        model=call.query.model, page_size=call.query.page_size, page_token=call.query.page_token
    )
    page = await call.rpc(_stub(call).ListModelVersions, request)
    return schemas.ModelVersionList(
        data=[_version(version) for version in page.versions], next_page_token=text_or_none(page.next_page_token)
    )


async def register(call: Call[schemas.NewRegisteredModel, None]) -> schemas.RegisteredModel:
    """POST /admin/registered-models."""
    body = call.body
    request = pb.RegisterModelRequest(
        model=registry_pb2.Model(
            name=body.model,
            family=body.family,
            context_length=body.context_length,
            prompt_price_picodollars=price_of(
                body.prompt_price_picodollars,
                body.input_usd_per_million,
                names=("prompt_price_picodollars", "input_usd_per_million"),
            ),
            completion_price_picodollars=price_of(
                body.completion_price_picodollars,
                body.output_usd_per_million,
                names=("completion_price_picodollars", "output_usd_per_million"),
            ),
            regions=body.regions,
        ),
        environment=_ENVIRONMENTS[body.environment],
        version=body.version,
        endpoint=body.endpoint,
    )
    return _model((await call.rpc(_stub(call).RegisterModel, request)).model)


async def list_registered(call: Call[None, PageQuery]) -> schemas.RegisteredModelList:
    """GET /admin/registered-models."""
    request = pb.ListRegisteredModelsRequest(page_size=call.query.page_size, page_token=call.query.page_token)
    page = await call.rpc(_stub(call).ListRegisteredModels, request)
    return schemas.RegisteredModelList(
        data=[_model(model) for model in page.models], next_page_token=text_or_none(page.next_page_token)
    )


async def deregister(call: Call[schemas.ModelNamed, None]) -> schemas.Gone:
    """POST /admin/registered-models/deregister."""
    await call.rpc(_stub(call).DeregisterModel, pb.DeregisterModelRequest(name=call.body.name))
    return schemas.Gone(name=call.body.name)


async def enable(call: Call[schemas.ModelNamed, None]) -> schemas.RegisteredModel:
    """POST /admin/registered-models/enable."""
    request = pb.SetModelEnabledRequest(name=call.body.name, enabled=True)
    return _model((await call.rpc(_stub(call).SetModelEnabled, request)).model)


async def disable(call: Call[schemas.ModelNamed, None]) -> schemas.RegisteredModel:
    """POST /admin/registered-models/disable."""
    request = pb.SetModelEnabledRequest(name=call.body.name, enabled=False)
    return _model((await call.rpc(_stub(call).SetModelEnabled, request)).model)


async def promote(call: Call[schemas.NewPromotion, None]) -> schemas.Promotion:
    """POST /admin/registered-models/promote."""
    body = call.body
    request = pb.PromoteModelRequest(
        model=body.model,
        from_environment=_ENVIRONMENTS[body.from_environment],
        to_environment=_ENVIRONMENTS[body.to_environment],
        dry_run=body.dry_run,
        request_id=call.create_request_id("promotion"),
    )
    answer = await call.rpc(_stub(call).PromoteModel, request)
    return schemas.Promotion(
        model=_model(answer.model) if answer.HasField("model") else None,
        gates=[schemas.Gate(name=gate.name, passed=gate.passed, detail=gate.detail) for gate in answer.gates],
    )


async def roll_back(call: Call[schemas.ModelNamed, None]) -> schemas.RegisteredModel:
    """POST /admin/registered-models/roll-back."""
    request = pb.RollBackModelRequest(name=call.body.name, request_id=call.create_request_id("roll-back"))
    return _model((await call.rpc(_stub(call).RollBackModel, request)).model)


def _stub(call: Call[Any, Any]) -> ModelStoreStub:
    if call.deps.model_store is None:
        raise CodedError(ErrorCode.UNAVAILABLE, "Models are not registered from here.")
    return call.deps.model_store()


def _version(version: pb.ModelVersion) -> schemas.ModelVersion:
    return schemas.ModelVersion(
        model=version.model,
        version=version.version,
        size_bytes=version.size_bytes,
        weights_bytes=version.weights_bytes,
        parameters=version.parameters,
        dtype=version.dtype,
        context_length=version.context_length,
        vram_required_bytes=version.vram_required_bytes,
        licence=version.licence,
        chat_template=version.chat_template,
        source=version.source,
        create_time=time(version.create_time),
    )


def _model(model: pb.RegisteredModel) -> schemas.RegisteredModel:
    return schemas.RegisteredModel(
        name=model.name,
        model=model.model,
        environment=_ENVIRONMENT_NAMES.get(model.environment, "production"),
        version=model.version,
        enabled=model.enabled,
        status=_STATUS.get(model.status, "no_nodes"),
        health_time=optional_time(model, "health_time"),
        endpoint=model.endpoint,
        serving_nodes=model.serving_nodes,
        version_nodes=model.version_nodes,
        licence=model.licence,
        change_time=time(model.change_time),
    )

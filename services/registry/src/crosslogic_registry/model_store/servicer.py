"""Protobuf to domain and back, for the model store."""

from typing import Any

import grpc.aio

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic.registry.v1 import model_store_pb2_grpc as rpc
from crosslogic_common.clock import timestamp
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.paging import page_limit, unwrap, wrap
from crosslogic_common.tls import peer_identity
from crosslogic_model_store.fit import least_bytes
from crosslogic_registry.model_store import policy
from crosslogic_registry.model_store.domain import ENVIRONMENT_FROM_PB, ENVIRONMENT_TO_PB, Registration, Version
from crosslogic_registry.model_store.service import ModelStore

Context = grpc.aio.ServicerContext[Any, Any]


class ModelStoreServicer(rpc.ModelStoreServiceServicer):
    """ModelStoreService."""

    def __init__(self, models: ModelStore) -> None:
        self._models = models

    async def AddModelVersion(self, request: pb.AddModelVersionRequest, context: Context) -> pb.AddModelVersionResponse:
        return pb.AddModelVersionResponse(version=_version(await self._models.add_version(request.manifest)))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        limit = page_limit(request.page_size)
        before = unwrap(request.page_token)
        if before and not (before.isascii() and before.isdecimal() and int(before) < 2**63):
            raise CodedError(ErrorCode.INVALID_ARGUMENT, "`page_token` is none of ours.", param="page_token")
        found = await self._models.versions(request.model, before=int(before or "0"), limit=limit + 1)
        return pb.ListModelVersionsResponse(
            versions=[_version(version) for version in found[:limit]],
            next_page_token=wrap(str(found[limit - 1].number)) if len(found) > limit else "",
        )

    async def GrantWeights(self, request: pb.GrantWeightsRequest, context: Context) -> pb.GrantWeightsResponse:
        version = await self._models.grant(request.node_id, request.name, request.version)
        return pb.GrantWeightsResponse(version=version)

    async def GetWeights(self, request: pb.GetWeightsRequest, context: Context) -> pb.GetWeightsResponse:
        caller = peer_identity(context)
        if caller is None or caller.kind != "node":
            raise CodedError(ErrorCode.PERMISSION_DENIED, private=f"{caller} is no node")
        version, urls, expire_at = await self._models.weights(caller.name)
        return pb.GetWeightsResponse(
            manifest=version.manifest.to_json(),
            objects=[pb.WeightsObject(sha256=sha256, url=url) for sha256, url in urls.items()],
            expire_time=timestamp(expire_at),
        )

    async def RegisterModel(self, request: pb.RegisterModelRequest, context: Context) -> pb.RegisterModelResponse:
        found = await self._models.register(
            request.model,
            ENVIRONMENT_FROM_PB.get(request.environment, "production"),
            version=request.version,
            endpoint=request.endpoint,
        )
        return pb.RegisterModelResponse(model=self._registered(found))

    async def DeregisterModel(self, request: pb.DeregisterModelRequest, context: Context) -> pb.DeregisterModelResponse:
        await self._models.deregister(request.name)
        return pb.DeregisterModelResponse()

    async def SetModelEnabled(self, request: pb.SetModelEnabledRequest, context: Context) -> pb.SetModelEnabledResponse:
        found = await self._models.enable(request.name, enabled=request.enabled)
        return pb.SetModelEnabledResponse(model=self._registered(found))

    async def PromoteModel(self, request: pb.PromoteModelRequest, context: Context) -> pb.PromoteModelResponse:
        found, gates = await self._models.promote(
            request.model,
            ENVIRONMENT_FROM_PB.get(request.from_environment, "production"),
            ENVIRONMENT_FROM_PB.get(request.to_environment, "production"),
            dry_run=request.dry_run,
            request_id=request.request_id,
        )
        return pb.PromoteModelResponse(
            model=self._registered(found) if found else None,
            gates=[pb.PromotionGate(name=gate.name, passed=gate.passed, detail=gate.detail) for gate in gates],
        )

    async def RollBackModel(self, request: pb.RollBackModelRequest, context: Context) -> pb.RollBackModelResponse:
        found = await self._models.roll_back(request.name, request_id=request.request_id)
        return pb.RollBackModelResponse(model=self._registered(found))

    async def CheckFit(self, request: pb.CheckFitRequest, context: Context) -> pb.CheckFitResponse:
        found = await self._models.check_fit(
            request.name,
            request.instance_type,
            context_tokens=request.context_length,
            concurrency=request.concurrency,
        )
        if isinstance(found, str):
            return pb.CheckFitResponse(arithmetic=[found])
        return pb.CheckFitResponse(
            known=True, fits=found.fits, tensor_parallel=found.share.tensor_parallel, arithmetic=found.arithmetic
        )

    async def ListRegisteredModels(
        self, request: pb.ListRegisteredModelsRequest, context: Context
    ) -> pb.ListRegisteredModelsResponse:
        limit = page_limit(request.page_size)
        found = await self._models.page(unwrap(request.page_token), limit + 1)
        return pb.ListRegisteredModelsResponse(
            models=[self._registered(each) for each in found[:limit]],
            next_page_token=wrap(found[limit - 1].name) if len(found) > limit else "",
        )

    def _registered(self, model: Registration) -> pb.RegisteredModel:
        health = self._models.health(model)
        return pb.RegisteredModel(
            name=model.name,
            model=model.model,
            environment=ENVIRONMENT_TO_PB[model.environment],
            version=model.version,
            enabled=model.enabled,
            status=policy.status_of(model, health),
            health_time=timestamp(health.heard_at) if health.heard_at else None,
            endpoint=model.endpoint,
            serving_nodes=health.serving_nodes,
            version_nodes=health.version_nodes,
            change_time=timestamp(model.changed_at),
            licence=model.licence,
        )


def _version(version: Version) -> pb.ModelVersion:
    manifest, facts = version.manifest, version.manifest.facts
    return pb.ModelVersion(
        model=manifest.model,
        version=manifest.revision,
        size_bytes=manifest.size_bytes,
        weights_bytes=facts.weights_bytes,
        parameters=facts.parameters,
        dtype=facts.dtype,
        context_length=facts.context_length,
        licence=facts.licence,
        chat_template=facts.chat_template,
        source=manifest.source,
        create_time=timestamp(version.created_at),
        vram_required_bytes=least_bytes(facts),
    )

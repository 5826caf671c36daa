"""Models and nodes."""

from typing import Literal

from msgspec import UNSET, UnsetType

from crosslogic.identity.v1 import identity_pb2 as identity_pb
from crosslogic.registry.v1 import registry_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin import schemas
from crosslogic_gateway.admin.conversion import optional_time, text_or_none, time
from crosslogic_gateway.admin.decoding import field_error
from crosslogic_gateway.admin.money import picodollars_per_token, usd_per_million
from crosslogic_gateway.admin.operation import Call
from crosslogic_gateway.admin.placement import deployments_from, deployments_to

_NodeStatus = Literal["registering", "warming", "active", "draining", "dead"]
_STATUS: dict[int, _NodeStatus] = {
    pb.NODE_STATUS_REGISTERING: "registering",
    pb.NODE_STATUS_WARMING: "warming",
    pb.NODE_STATUS_ACTIVE: "active",
    pb.NODE_STATUS_DRAINING: "draining",
    pb.NODE_STATUS_DEAD: "dead",
}


async def create_model(call: Call[schemas.NewModel, None]) -> schemas.Model:
    """POST /admin/models."""
    body = call.body
    request = pb.CreateModelRequest(
        model=pb.Model(
            name=body.name,
            family=body.family,
            context_length=body.context_length,
            vram_required_bytes=body.vram_required_bytes,
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
            deployments=deployments_to(body.deployments, call.deps.regions),
        )
    )
    return _model((await call.rpc(call.deps.registry().CreateModel, request)).model)


async def list_models(call: Call[None, schemas.PageQuery]) -> schemas.ModelList:
    """GET /admin/models."""
    request = pb.ListModelsRequest(page_size=call.query.page_size, page_token=call.query.page_token)
    page = await call.rpc(call.deps.registry().ListModels, request)
    return schemas.ModelList(
        data=[_model(model) for model in page.models], next_page_token=text_or_none(page.next_page_token)
    )


async def list_nodes(call: Call[None, schemas.PageQuery]) -> schemas.NodeList:
    """GET /admin/nodes."""
    request = pb.ListNodesRequest(page_size=call.query.page_size, page_token=call.query.page_token)
    page = await call.rpc(call.deps.registry().ListNodes, request)
    return schemas.NodeList(
        data=[_node(node) for node in page.nodes], next_page_token=text_or_none(page.next_page_token)
    )


async def drain_node(call: Call[None, None]) -> schemas.Node:
    """POST /admin/nodes/{id}/drain."""
    request = pb.DrainNodeRequest(node_id=call.path["id"])
    return _node((await call.rpc(call.deps.registry().DrainNode, request)).node)


async def create_join_token(call: Call[schemas.NewJoinToken, None]) -> schemas.JoinToken:
    """POST /admin/nodes/join-tokens."""
    if call.body.org_id:
        await _check_org(call, call.body.org_id)
    request = pb.CreateJoinTokenRequest(org_id=call.body.org_id, ttl_s=call.body.ttl_s)
    answer = await call.rpc(call.deps.registry().CreateJoinToken, request)
    return schemas.JoinToken(join_token=answer.join_token, expire_time=time(answer.expire_time))


async def _check_org(call: Call[schemas.NewJoinToken, None], org_id: str) -> None:
    """A node bound to an organisation that does not exist would serve nobody, and nobody would know why."""
    try:
        await call.rpc(call.deps.identity().GetOrg, identity_pb.GetOrgRequest(id=org_id))
    except CodedError as error:
        if error.code == ErrorCode.NOT_FOUND:
            raise field_error("org_id", "there is no such organisation") from None
        raise


def price_of(picodollars: int | UnsetType, usd: str | UnsetType, *, names: tuple[str, str]) -> int:
    """A price from whichever of its two units is given. Raises INVALID_ARGUMENT: both, neither, not exact."""
    if picodollars is not UNSET:
        if usd is not UNSET:
            raise field_error(names[1], f"give it or `{names[0]}`, not both")
        return picodollars
    if usd is UNSET:
        raise CodedError(ErrorCode.INVALID_ARGUMENT, f"`{names[0]}` or `{names[1]}` is missing.", param=names[0])
    try:
        return picodollars_per_token(usd)
    except ValueError as error:
        raise field_error(names[1], str(error)) from None


def _model(model: pb.Model) -> schemas.Model:
    return schemas.Model(
        name=model.name,
        family=model.family,
        context_length=model.context_length,
        vram_required_bytes=model.vram_required_bytes,
        prompt_price_picodollars=model.prompt_price_picodollars,
        completion_price_picodollars=model.completion_price_picodollars,
        input_usd_per_million=usd_per_million(model.prompt_price_picodollars),
        output_usd_per_million=usd_per_million(model.completion_price_picodollars),
        regions=list(model.regions),
        deployments=deployments_from(model.deployments),
        create_time=time(model.create_time),
    )


def _node(node: pb.Node) -> schemas.Node:
    facts, load = node.facts, node.load
    return schemas.Node(
        id=node.id,
        org_id=text_or_none(node.org_id),
        status=_STATUS.get(node.status, "registering"),
        status_reason=node.status_reason,
        address=facts.address,
        region=facts.region,
        models=list(facts.models),
        context_length=facts.context_length,
        engine=facts.engine,
        engine_version=facts.engine_version,
        agent_version=facts.agent_version,
        gpu_type=facts.gpu_type,
        gpu_count=facts.gpu_count,
        vram_total_bytes=facts.vram_total_bytes,
        max_tokens_per_sec=facts.max_tokens_per_sec,
        prefill_tokens_per_sec=facts.prefill_tokens_per_sec,
        decode_tokens_per_sec=facts.decode_tokens_per_sec,
        current_tokens_per_sec=load.current_tokens_per_sec,
        running=load.running,
        waiting=load.waiting,
        kv_cache_usage=load.kv_cache_usage,
        prompt_tokens_total=load.prompt_tokens_total,
        generation_tokens_total=load.generation_tokens_total,
        engine_restarts=load.engine_restarts,
        last_heartbeat_time=optional_time(node, "last_heartbeat_time"),
        create_time=time(node.create_time),
    )

"""A few tokens from a live node, before a version is promoted."""

import asyncio
import json

import grpc.aio

from crosslogic.common.v1 import common_pb2
from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic.node_agent.v1 import node_agent_pb2_grpc as rpc
from crosslogic.registry.v1 import registry_pb2
from crosslogic_common.errors import CodedError, from_rpc_error
from crosslogic_common.ids import Uuid7Source
from crosslogic_common.tls import Channels
from crosslogic_registry.model_store.domain import Smoke

TOKENS = 4
TIMEOUT_S = 30.0
_COMPLETIONS = "/v1/completions"


class NodeSmokeTest:
    """Asks the node's agent over mutual TLS, as a gateway would."""

    def __init__(self, channels: Channels, ids: Uuid7Source) -> None:
        self._channels = channels
        self._ids = ids

    async def generate(self, node: registry_pb2.Node, model: str) -> Smoke:
        """See ports.SmokeTest."""
        completions = _COMPLETIONS in node.facts.engine_paths
        asked = {"prompt": "Hello"} if completions else {"messages": [{"role": "user", "content": "Hello"}]}
        opened = pb.RelayOpen(
            request_id=self._ids.next_text(),
            model=model,
            api=pb.ENGINE_API_COMPLETIONS if completions else pb.ENGINE_API_CHAT_COMPLETIONS,
            body=json.dumps({"model": model, "max_tokens": TOKENS, **asked}).encode(),
            first_byte_timeout_ms=int(TIMEOUT_S * 1000),
            idle_timeout_ms=int(TIMEOUT_S * 1000),
            org_id=node.org_id,
        )
        try:
            stub: rpc.NodeAgentServiceAsyncStub = rpc.NodeAgentServiceStub(
                self._channels.node(node.id, node.facts.address)
            )
            async with asyncio.timeout(TIMEOUT_S):
                answer = await stub.Infer(pb.InferRequest(open=opened), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return Smoke(passed=False, detail=f"node {node.id}: {from_rpc_error(error).public}")
        except (CodedError, TimeoutError):
            return Smoke(passed=False, detail=f"node {node.id} did not answer")
        tokens = answer.end.usage.completion_tokens
        passed = answer.end.outcome == common_pb2.OUTCOME_SUCCEEDED and tokens > 0
        return Smoke(passed=passed, detail=f"node {node.id} generated {tokens} tokens")

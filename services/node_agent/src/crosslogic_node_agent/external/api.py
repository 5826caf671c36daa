"""What the agent itself asks of an endpoint: does it answer, and does it take our key. Nothing that is paid for."""

import asyncio
from collections.abc import Callable
from functools import partial

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_node_agent.domain import EngineFacts, EngineLoad
from crosslogic_node_agent.engine_api import EngineApi, EngineFailureError
from crosslogic_node_agent.engine_connection import EnginePool
from crosslogic_node_agent.engine_request import PATHS
from crosslogic_node_agent.external.dialect import Standing, external_bytes
from crosslogic_node_agent.external.terms import ExternalTerms
from crosslogic_node_agent.metrics import AgentMetrics

ENGINE_NAME = "external"
_WELL = frozenset({200, 404, 405, 429, 501})
"""One without a list of models, or too busy to tell it, may serve all the same."""
_LIKELY = (PATHS[pb.ENGINE_API_CHAT_COMPLETIONS], PATHS[pb.ENGINE_API_EMBEDDINGS])
"""What most endpoints have: finding out would cost. It is asked for completions too, by whoever asks for them."""
_UNKNOWN_TO_IT = frozenset({401, 402, 403})


class OwnLoad:
    """How busy the endpoint is with this relay's calls; how busy it is otherwise nobody tells."""

    def __init__(self, metrics: AgentMetrics) -> None:
        self._metrics = metrics

    def read(self) -> EngineLoad:
        """The load now."""
        return EngineLoad(
            running=self._metrics.calls_running(),
            prompt_tokens_total=self._metrics.prompt_tokens_total,
            generation_tokens_total=self._metrics.completion_tokens_total,
            read_at=asyncio.get_running_loop().time(),
        )


class ExternalApi(EngineApi):
    """An endpoint's health and facts, as an engine's."""

    def __init__(
        self, pool: EnginePool, *, terms: ExternalTerms, standing: Standing, load: Callable[[], EngineLoad]
    ) -> None:
        """`load` tells what this relay itself has under way there."""
        super().__init__(pool, partial(external_bytes, terms))
        self._terms = terms
        self._standing = standing
        standing.on_refused = self.doubt.set
        self._own_load = load

    async def healthy(self, *, timeout_s: float) -> None:
        """Returns when the endpoint answers and takes our key. Raises EngineFailureError.

        A key that was put into its file meanwhile is used from now on.
        """
        if await asyncio.to_thread(self._terms.key.refresh):
            self._standing.forgive()
        if self._standing.refused:
            raise EngineFailureError("the endpoint does not take our key, or is not paid")
        status, _ = await self.fetch("GET", f"{self._terms.url.base_path}/models", timeout_s=timeout_s)
        if status in _UNKNOWN_TO_IT:
            raise EngineFailureError(f"the endpoint does not take our key: /models answered {status}")
        if status not in _WELL:
            raise EngineFailureError(f"the endpoint's /models answered {status}")

    async def facts(self) -> EngineFacts:
        """What the operator says of it."""
        return EngineFacts(name=ENGINE_NAME, served_models=(self._terms.model,), paths=_LIKELY)

    async def load(self, *, timeout_s: float = 2.0) -> EngineLoad:  # noqa: ARG002  # the engine's
        """What this relay has under way there."""
        return self._own_load()

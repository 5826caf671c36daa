"""Asks a fresh engine for one token of each kind, to learn what its whole answers look like."""

from typing import Any

import msgspec

from crosslogic.node_agent.v1 import node_agent_pb2 as pb
from crosslogic_node_agent.assembly import AnswerTemplates
from crosslogic_node_agent.domain import EngineFacts
from crosslogic_node_agent.engine_api import EngineApi, EngineFailureError
from crosslogic_node_agent.engine_request import PATHS

_TIMEOUT_S = 30.0
_QUESTIONS: tuple[tuple[pb.EngineApi.ValueType, dict[str, Any]], ...] = (
    (pb.ENGINE_API_COMPLETIONS, {"prompt": "1 2 3", "max_tokens": 2}),
    (pb.ENGINE_API_CHAT_COMPLETIONS, {"messages": [{"role": "user", "content": "1 2 3"}], "max_tokens": 2}),
)


async def learn_answers(api: EngineApi, facts: EngineFacts, templates: AnswerTemplates) -> None:
    """Fills `templates`. An engine that refuses (one for embeddings, say) teaches nothing."""
    if not templates.wanted or not facts.served_models:
        return
    for engine_api, question in _QUESTIONS:
        if PATHS[engine_api] not in facts.paths:
            continue
        body = msgspec.json.encode({"model": facts.served_models[0], **question})
        try:
            status, answer = await api.fetch("POST", PATHS[engine_api], body, timeout_s=_TIMEOUT_S)
        except EngineFailureError:
            # Whether it is well is found out elsewhere.
            continue
        if status == 200:  # noqa: PLR2004  # HTTP's own number
            templates.learn(engine_api, answer)

"""The public paths: what clients send and get there.

Bodies of inference requests are open (`additionalProperties`): what the gateway does not know goes to the engine.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from crosslogic_gateway.openapi.answers import (
    error_answer,
    idempotency_parameter,
    queue_parameters,
    session_parameter,
)
from crosslogic_gateway.openapi.inference_schemas import INFERENCE_SCHEMAS

Json = dict[str, Any]

_INFERENCE_ERRORS = (400, 401, 402, 403, 404, 408, 409, 413, 415, 429, 500, 502, 503, 504)
_TEXT = {"text/plain": {"schema": {"type": "string"}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _inference(name: str, summary: str, *, asked: str, answered: str, streams: bool) -> Json:
    content: Json = {"application/json": {"schema": _ref(answered)}}
    if streams:
        content["text/event-stream"] = {
            "schema": {
                "type": "string",
                "description": "With `stream: true`: server-sent events. A stream that fails ends with an error event.",
            }
        }
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "tags": ["Inference"],
            "security": [{"apiKey": []}],
            "parameters": [idempotency_parameter(), session_parameter(), *queue_parameters()],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(asked)}}},
            "responses": {
                "200": {
                    "description": "The answer.",
                    "headers": {
                        "X-CrossLogic-Region-Failover": {
                            "description": "`true`: the environment's region is down, and another one answers.",
                            "schema": {"type": "string", "enum": ["true"]},
                        }
                    },
                    "content": content,
                },
                **{str(status): error_answer(status) for status in _INFERENCE_ERRORS},
            },
        }
    }


def _service(name: str, summary: str, content: Json, *, unready: bool = False) -> Json:
    responses: Json = {"200": {"description": "As asked.", "content": content}}
    if unready:
        responses["503"] = {"description": "Not ready to take requests.", "content": content}
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "tags": ["Service"],
            "security": [],
            "responses": responses,
        }
    }


def _sign_in(name: str, summary: str, status: int, parameters: tuple[str, ...], error: int) -> Json:
    described: Json = {
        "operationId": name,
        "summary": summary,
        "tags": ["Service"],
        "security": [],
        "responses": {
            str(status): {"description": "Done; cookies are set."},
            **{str(each): error_answer(each) for each in sorted({error, 503})},
        },
    }
    if parameters:
        described["parameters"] = [
            {"name": one, "in": "query", "required": False, "schema": {"type": "string", "maxLength": 4096}}
            for one in parameters
        ]
    return described


PUBLIC_PATHS: Mapping[str, Json] = MappingProxyType(
    {
        "/v1/chat/completions": _inference(
            "createChatCompletion", "Answer a chat", asked="ChatRequest", answered="ChatCompletion", streams=True
        ),
        "/v1/completions": _inference(
            "createCompletion", "Continue a text", asked="CompletionRequest", answered="Completion", streams=True
        ),
        "/v1/embeddings": _inference(
            "createEmbedding", "Embed texts", asked="EmbeddingRequest", answered="EmbeddingList", streams=False
        ),
        "/v1/responses": _inference(
            "createResponse",
            "The Responses API, on engines that have it",
            asked="ResponseRequest",
            answered="OpenObject",
            streams=True,
        ),
        "/v1/messages": _inference(
            "createMessage",
            "The Messages API, on engines that have it",
            asked="MessageRequest",
            answered="OpenObject",
            streams=True,
        ),
        "/v1/models": {
            "get": {
                "operationId": "listModels",
                "summary": "List the models that the key may use",
                "tags": ["Inference"],
                "security": [{"apiKey": []}],
                "responses": {
                    "200": {
                        "description": "The models.",
                        "content": {"application/json": {"schema": _ref("PublicModelList")}},
                    },
                    **{str(status): error_answer(status) for status in (401, 403, 429, 500, 503)},
                },
            }
        },
        "/v1/models/{model}": {
            "get": {
                "operationId": "getModel",
                "summary": "Get one model that the key may use",
                "tags": ["Inference"],
                "security": [{"apiKey": []}],
                "parameters": [
                    {
                        "name": "model",
                        "in": "path",
                        "required": True,
                        "description": "Its name; slashes may stand as they are.",
                        "schema": {"type": "string", "minLength": 1, "maxLength": 200},
                    }
                ],
                "responses": {
                    "200": {
                        "description": "The model.",
                        "content": {"application/json": {"schema": _ref("PublicModel")}},
                    },
                    **{str(status): error_answer(status) for status in (401, 403, 404, 429, 500, 503)},
                },
            }
        },
        "/health": _service(
            "getHealth", "Whether the process lives", {"application/json": {"schema": _ref("OpenObject")}}
        ),
        "/ready": _service(
            "getReady",
            "Whether it can take requests",
            {"application/json": {"schema": _ref("OpenObject")}},
            unready=True,
        ),
        "/metrics": _service("getMetrics", "Prometheus metrics", _TEXT),
        "/sign-in": {"get": _sign_in("signIn", "Send a browser to an OpenID provider", 303, ("provider",), 404)},
        "/sign-in/callback": {
            "get": _sign_in("signInCallback", "Where the provider sends the browser back", 303, ("code", "state"), 401)
        },
        "/sign-out": {"post": _sign_in("signOut", "Forget a browser's session", 204, (), 500)},
        "/openapi.json": _service("getOpenapi", "This document", {"application/json": {"schema": _ref("OpenObject")}}),
    }
)

PUBLIC_SCHEMAS: Mapping[str, Json] = MappingProxyType(
    {
        **INFERENCE_SCHEMAS,
        "OpenObject": {"type": "object"},
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code", "request_id"],
                    "properties": {
                        "message": {"type": "string", "description": "A sentence for people."},
                        "type": {"type": "string", "description": "The kind, for example `invalid_request_error`."},
                        "param": {"type": ["string", "null"], "description": "The field at fault."},
                        "code": {"type": "string", "description": "What programs read, for example `not_found`."},
                        "request_id": {"type": "string", "description": "Say it when you ask for help."},
                    },
                }
            },
        },
        "PublicModel": {
            "type": "object",
            "required": ["id", "object", "created", "owned_by"],
            "properties": {
                "id": {"type": "string", "description": "What to send as `model`."},
                "object": {"const": "model"},
                "created": {"type": "integer", "description": "Seconds since the epoch."},
                "owned_by": {"type": "string"},
                "context_length": {
                    "type": "integer",
                    "description": "Tokens that prompt and answer may have together.",
                },
            },
        },
        "PublicModelList": {
            "type": "object",
            "required": ["object", "data"],
            "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _ref("PublicModel")}},
        },
    }
)

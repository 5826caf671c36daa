"""Schemas of the inference requests and answers, as far as the gateway itself relies on them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Json = dict[str, Any]


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_MODEL = {"type": "string", "minLength": 1, "maxLength": 200, "description": "A name that `GET /v1/models` gave."}
_STREAM = {"type": ["boolean", "null"], "default": False, "description": "Answer with server-sent events."}
_MAX_TOKENS = {"type": ["integer", "null"], "minimum": 1, "description": "The most tokens to generate."}
_SAMPLING: Json = {
    "temperature": {"type": ["number", "null"], "minimum": 0},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "seed": {"type": ["integer", "null"]},
    "n": {"type": ["integer", "null"], "minimum": 1},
    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
}
_STREAM_OPTIONS: Json = {
    "type": ["object", "null"],
    "properties": {"include_usage": {"type": "boolean", "description": "Send the usage in a last chunk of its own."}},
}


def _request(required: list[str], properties: Json) -> Json:
    return {"type": "object", "required": ["model", *required], "properties": {"model": _MODEL, **properties}}


def _answer(kind: str, choice: Json) -> Json:
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer", "description": "Seconds since the epoch."},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": choice},
            "usage": {"anyOf": [_ref("TokenUsage"), {"type": "null"}]},
        },
    }


_FINISH = {"type": ["string", "null"], "description": "For example `stop` or `length`."}

INFERENCE_SCHEMAS: Mapping[str, Json] = MappingProxyType(
    {
        "TokenUsage": {
            "type": "object",
            "required": ["prompt_tokens", "total_tokens"],
            "properties": {
                "prompt_tokens": {"type": "integer", "minimum": 0},
                "completion_tokens": {"type": "integer", "minimum": 0},
                "total_tokens": {"type": "integer", "minimum": 0},
            },
        },
        "ChatMessage": {
            "type": "object",
            "required": ["role"],
            "properties": {
                "role": {"type": "string", "description": "For example `system`, `user` or `assistant`."},
                "content": {
                    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]
                },
            },
        },
        "ChatRequest": _request(
            ["messages"],
            {
                "messages": {"type": "array", "minItems": 1, "items": _ref("ChatMessage")},
                "max_tokens": _MAX_TOKENS,
                "max_completion_tokens": _MAX_TOKENS,
                "stream": _STREAM,
                "stream_options": _STREAM_OPTIONS,
                **_SAMPLING,
                "tools": {"type": ["array", "null"], "items": {"type": "object"}},
                "response_format": {"type": ["object", "null"]},
            },
        ),
        "ChatCompletion": _answer(
            "chat.completion",
            {
                "type": "object",
                "required": ["index", "message", "finish_reason"],
                "properties": {
                    "index": {"type": "integer", "minimum": 0},
                    "message": _ref("ChatMessage"),
                    "finish_reason": _FINISH,
                },
            },
        ),
        "CompletionRequest": _request(
            ["prompt"],
            {
                "prompt": {
                    "anyOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"type": "string"}},
                        {"type": "array", "items": {"type": "integer"}},
                        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
                    ]
                },
                "max_tokens": _MAX_TOKENS,
                "stream": _STREAM,
                "stream_options": _STREAM_OPTIONS,
                **_SAMPLING,
            },
        ),
        "Completion": _answer(
            "text_completion",
            {
                "type": "object",
                "required": ["index", "text", "finish_reason"],
                "properties": {
                    "index": {"type": "integer", "minimum": 0},
                    "text": {"type": "string"},
                    "finish_reason": _FINISH,
                },
            },
        ),
        "EmbeddingRequest": _request(
            ["input"],
            {
                "input": {"anyOf": [{"type": "string"}, {"type": "array"}]},
                "encoding_format": {"enum": ["float", "base64"]},
                "dimensions": {"type": ["integer", "null"], "minimum": 1},
            },
        ),
        "EmbeddingList": {
            "type": "object",
            "required": ["object", "data", "model"],
            "properties": {
                "object": {"const": "list"},
                "data": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["index", "embedding"],
                        "properties": {
                            "index": {"type": "integer", "minimum": 0},
                            "embedding": {
                                "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]
                            },
                        },
                    },
                },
                "model": {"type": "string"},
                "usage": _ref("TokenUsage"),
            },
        },
        "ResponseRequest": _request(
            ["input"], {"input": {"anyOf": [{"type": "string"}, {"type": "array"}]}, "stream": _STREAM}
        ),
        "MessageRequest": _request(
            ["messages", "max_tokens"],
            {
                "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                "max_tokens": {"type": "integer", "minimum": 1},
                "stream": _STREAM,
            },
        ),
    }
)

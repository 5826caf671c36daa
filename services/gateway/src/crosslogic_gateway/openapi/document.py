"""Puts the document together: the admin API from its operations and structs, the public API from public.py."""

import re
from typing import Any

import msgspec
from aiohttp import web

from crosslogic_gateway.admin.auth import ADMIN_TOKEN_HEADER
from crosslogic_gateway.admin.operation import Operation
from crosslogic_gateway.admin.routes import OPERATIONS
from crosslogic_gateway.oidc.session import SESSION_COOKIE
from crosslogic_gateway.openapi.answers import error_answer, idempotency_parameter
from crosslogic_gateway.openapi.public import PUBLIC_PATHS, PUBLIC_SCHEMAS

DOCUMENT_PATH = "/openapi.json"

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_PATH_PARAMETER = re.compile(r"\{(\w+)\}")
_MAX_ID = 64


def build_document(version: str) -> Json:
    """The document; `version` is the gateway's own."""
    structs = [
        kind
        for operation in OPERATIONS
        for kind in (operation.body, operation.query, operation.answer)
        if kind is not None
    ]
    _, schemas = msgspec.json.schema_components(structs, ref_template=_REF)
    schemas = _with_json_schema_patterns(schemas)
    paths: dict[str, Json] = {path: dict(item) for path, item in PUBLIC_PATHS.items()}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    # A query's struct becomes parameters; as a schema of its own nothing refers to it.
    queries = {operation.query.__name__ for operation in OPERATIONS if operation.query is not None}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CrossLogic",
            "version": version,
            "summary": "An OpenAI-compatible inference cloud",
            "description": "The `/v1` paths take what OpenAI's clients send. The `/admin` paths are for operators.",
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": name}
            for name in ("Inference", "Service", *dict.fromkeys(operation.tag for operation in OPERATIONS))
        ],
        "paths": paths,
        "components": {
            "schemas": {
                **{name: schema for name, schema in schemas.items() if name not in queries},
                **PUBLIC_SCHEMAS,
            },
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key: `clsk_live_…`."},
                "adminToken": {"type": "apiKey", "in": "header", "name": ADMIN_TOKEN_HEADER},
                "openId": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An OpenID token of a provider that the gateway trusts.",
                },
                "adminSession": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": SESSION_COOKIE,
                    "description": "Set by GET /admin/sign-in, for browsers.",
                },
            },
        },
    }


def make_openapi_routes(version: str) -> list[web.RouteDef]:
    """GET /openapi.json. The document is built once, here."""
    body = msgspec.json.encode(build_document(version))

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return [web.get(DOCUMENT_PATH, handle, name="openapi")]


def _with_json_schema_patterns(schema: Any) -> Any:
    r"""The schemas with the end of a text as JSON Schema writes it.

    Python's `$` lets a newline follow, so that ours end in `\Z`, which is no end in the regular expressions of others.
    """
    if isinstance(schema, list):
        return [_with_json_schema_patterns(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.replace(r"\Z", "$")
        if name == "pattern" and isinstance(value, str)
        else _with_json_schema_patterns(value)
        for name, value in schema.items()
    }


def _operation(operation: Operation[Any, Any], schemas: Json) -> Json:
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [{"adminToken": []}, {"openId": []}, {"adminSession": []}],
        "responses": {
            str(operation.status): {
                "description": "Done." if operation.answer.__doc__ is None else operation.answer.__doc__,
                "content": {_answer_type(operation): {"schema": _reference(operation.answer)}},
            },
            **{str(status): error_answer(status) for status in sorted(_errors(operation))},
        },
    }
    parameters = [*_path_parameters(operation.path), *_query_parameters(operation.query, schemas)]
    if operation.method == "POST":
        parameters.append(idempotency_parameter())
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.body_optional,
            "content": {"application/json": {"schema": _reference(operation.body)}},
        }
    return described


def _answer_type(operation: Operation[Any, Any]) -> str:
    return "application/json" if operation.events is None else "text/event-stream"


def _errors(operation: Operation[Any, Any]) -> set[int]:
    repeated = {409} if operation.method == "POST" else set()
    return {400, 401, 403, 500, 503, 504, *operation.errors} | repeated


def _reference(kind: type[msgspec.Struct]) -> Json:
    return {"$ref": _REF.format(name=kind.__name__)}


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "maxLength": _MAX_ID}}
        for name in _PATH_PARAMETER.findall(path)
    ]


def _query_parameters(query: type[msgspec.Struct] | None, schemas: Json) -> list[Json]:
    if query is None:
        return []
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in schemas[query.__name__]["properties"].items()
    ]

"""The HTTP application: which path goes where."""

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version

import msgspec
from aiohttp import web

from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.metrics import Metrics
from crosslogic_gateway.attempts import Api
from crosslogic_gateway.body import MAX_BODY_BYTES
from crosslogic_gateway.catalogue import Catalogue
from crosslogic_gateway.domain import Model
from crosslogic_gateway.edge import Edge
from crosslogic_gateway.http import answer_headers
from crosslogic_gateway.idempotency.domain import IDEMPOTENCY_HEADER
from crosslogic_gateway.idempotency.ports import AnswersOnce
from crosslogic_gateway.inference import APIS, Inference
from crosslogic_gateway.openapi import make_openapi_routes
from crosslogic_gateway.settings import Network


@dataclass(frozen=True, slots=True)
class Readiness:
    """What must be true before this worker takes requests, and what is only told."""

    required: Callable[[], dict[str, bool]]
    degraded: Callable[[], dict[str, bool]]


@dataclass(frozen=True, slots=True)
class AppDeps:
    """What the application is made of."""

    edge: Edge
    inference: Inference
    catalogue: Catalogue
    metrics: Metrics
    readiness: Readiness
    metrics_allowed: tuple[Network, ...]
    admin_routes: Iterable[web.RouteDef]
    idempotency: AnswersOnce


def make_app(deps: AppDeps) -> web.Application:
    """The application."""
    app = web.Application(middlewares=list(deps.edge.middlewares), client_max_size=MAX_BODY_BYTES)
    app.router.add_routes([web.post(api.path, _inference_handler(deps, api)) for api in APIS])
    pages = _Pages(deps)
    app.router.add_routes(
        [
            web.get("/v1/models", pages.models),
            web.get("/v1/models/{model:.+}", pages.model),
            web.get("/health", pages.health),
            web.get("/ready", pages.ready),
            web.get("/metrics", pages.metrics),
        ]
    )
    app.router.add_routes(deps.admin_routes)
    app.router.add_routes(make_openapi_routes(version("crosslogic-gateway")))
    return app


def _inference_handler(deps: AppDeps, api: Api) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    serve = deps.inference.serve

    async def run(request: web.Request) -> web.StreamResponse:
        return await serve(request, api)

    async def handle(request: web.Request) -> web.StreamResponse:
        if IDEMPOTENCY_HEADER in request.headers:
            # Whose key it is comes first: an answer is given again only to somebody who may still ask.
            principal = await deps.inference.principal(request)
            return await deps.idempotency.answer(request, scope=f"key:{principal.api_key_id}", run=run)
        return await serve(request, api)

    return handle


class _Pages:
    """The small pages."""

    def __init__(self, deps: AppDeps) -> None:
        self._deps = deps

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models: only what the key may use."""
        principal = await self._deps.inference.principal(request)
        models = [_model(model) for model in self._deps.catalogue.for_principal(principal)]
        return _json(request, {"object": "list", "data": models})

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/{model}."""
        principal = await self._deps.inference.principal(request)
        return _json(request, _model(self._deps.catalogue.require(request.match_info["model"], principal)))

    async def health(self, request: web.Request) -> web.Response:
        """GET /health: the process answers. Its neighbours have no say, so that a sick database restarts nobody."""
        return _json(request, {"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """GET /ready: it can serve. What is away but not needed is told as degraded."""
        required = self._deps.readiness.required()
        body = {
            "status": "ready" if all(required.values()) else "not ready",
            "required": required,
            "degraded": sorted(name for name, away in self._deps.readiness.degraded().items() if away),
        }
        return _json(request, body, status=200 if all(required.values()) else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics, for the networks that may read them."""
        peer = request.remote
        if peer is None or not any(ipaddress.ip_address(peer) in network for network in self._deps.metrics_allowed):
            raise CodedError(ErrorCode.NOT_FOUND)
        headers = answer_headers(request, "text/plain; version=0.0.4; charset=utf-8")
        return web.Response(body=self._deps.metrics.text(), headers=headers)


def _model(model: Model) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_unix_s,
        "owned_by": "crosslogic",
        "context_length": model.context_length,
    }


def _json(request: web.Request, body: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(body), headers=answer_headers(request, "application/json")
    )

"""The document covers the whole application, not only what was thought of."""

from types import SimpleNamespace
from typing import Any, cast

from crosslogic_gateway.admin import make_admin_routes
from crosslogic_gateway.app import AppDeps, make_app
from crosslogic_gateway.oidc.pages import SignInPages
from crosslogic_gateway.openapi import build_document
from tests.fakes.admin_neighbours import Neighbours


async def test_every_path_that_the_gateway_answers_is_in_the_document_and_the_other_way_round() -> None:
    anything = cast("Any", SimpleNamespace(middlewares=(), serve=None, principal=None))
    pages = SignInPages(providers={}, cookies=anything, clock=anything, public_url="", session_s=60)
    app = make_app(
        AppDeps(
            edge=anything,
            inference=anything,
            catalogue=anything,
            metrics=anything,
            readiness=anything,
            metrics_allowed=(),
            admin_routes=[*make_admin_routes(Neighbours().deps), *pages.routes()],
            idempotency=anything,
        )
    )
    answered = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    document = build_document("0.1.0")
    described = {(method, path) for path, item in document["paths"].items() for method in item}
    assert answered == described

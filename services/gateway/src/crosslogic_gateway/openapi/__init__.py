"""The OpenAPI 3.1 document of the gateway, made from the operations themselves and served by it."""

from crosslogic_gateway.openapi.document import DOCUMENT_PATH, build_document, make_openapi_routes

__all__ = ["DOCUMENT_PATH", "build_document", "make_openapi_routes"]

"""The admin API: organisations, environments, keys, models, nodes and usage, for operators."""

from crosslogic_gateway.admin.deps import AdminDeps
from crosslogic_gateway.admin.routes import make_admin_routes

__all__ = ["AdminDeps", "make_admin_routes"]

"""A typed client of CrossLogic's admin API."""

from crosslogic_admin.client import AdminClient
from crosslogic_admin.transport import AdminError, UnreachableError, rows

__all__ = ["AdminClient", "AdminError", "UnreachableError", "rows"]

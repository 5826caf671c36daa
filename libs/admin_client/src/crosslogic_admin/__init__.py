"""A typed client of CrossLogic's admin API."""

from crosslogic_admin.client import AdminClient
from crosslogic_admin.transport import AdminError, rows

__all__ = ["AdminClient", "AdminError", "rows"]

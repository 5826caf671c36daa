"""Who may use an operation. What says nothing is for the platform's own people only."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin.decoding import field_error
from crosslogic_gateway.admin.who import PLATFORM, Place, Role

if TYPE_CHECKING:
    from crosslogic_gateway.admin.operation import Call

OrgOf = Callable[["Call[Any, Any]"], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Access:
    """The least role, and whose business it is."""

    role: Role
    org_of: OrgOf | None = None
    """Finds the organisation that a call is about, whose people may do it too. None: only the platform's."""
    anywhere: bool = False
    """A place in any organisation will do: the handler shows each his own."""


PLATFORM_READER = Access("read_only")
PLATFORM_ADMIN = Access("admin")
ANYBODY = Access("read_only", anywhere=True)


async def authorised(access: Access, call: "Call[Any, Any]") -> Place | None:
    """The place that allows the call. None: any place does.

    Raises PERMISSION_DENIED, and NOT_FOUND for a thing of an organisation that is not one's own: nobody learns that it
    is there.
    """
    who = call.who
    place = who.place(access.role, PLATFORM)
    if place is not None:
        return place
    if access.anywhere:
        return None
    if access.org_of is None:
        raise _denied()
    org_id = await access.org_of(call)
    place = who.place(access.role, org_id) if org_id else None
    if place is not None:
        return place
    if who.on_platform or org_id in who.org_ids:
        raise _denied()
    raise CodedError(ErrorCode.NOT_FOUND)


async def of_path_org(call: "Call[Any, Any]") -> str:
    """The organisation is named in the path."""
    try:
        return str(UUID(call.path["id"]))
    except ValueError:
        raise CodedError(ErrorCode.NOT_FOUND) from None


async def of_environment(call: "Call[Any, Any]") -> str:
    """An environment is named in the path."""
    request = pb.GetEnvironmentRequest(id=call.path["id"])
    return (await call.rpc(call.deps.identity().GetEnvironment, request)).environment.org_id


async def of_key(call: "Call[Any, Any]") -> str:
    """A key is named in the path."""
    request = pb.GetApiKeyRequest(id=call.path["id"])
    return (await call.rpc(call.deps.identity().GetApiKey, request)).api_key.org_id


async def of_user(call: "Call[Any, Any]") -> str:
    """A user is named in the path."""
    request = pb.GetUserRequest(id=call.path["id"])
    return (await call.rpc(call.deps.identity().GetUser, request)).user.org_id


async def of_query(call: "Call[Any, Any]") -> str:
    """The query names the organisation; somebody with one organisation need not name it."""
    if not call.query.org_id and len(call.who.org_ids) == 1:
        (call.query.org_id,) = call.who.org_ids
    try:
        return str(UUID(call.query.org_id))
    except ValueError:
        raise field_error("org_id", "name one of your organisations") from None


def _denied() -> CodedError:
    return CodedError(ErrorCode.PERMISSION_DENIED, "Your role does not allow this.")

"""Who is let into the admin API: whoever knows the operators' token, and people who signed in and have a place here."""

import hashlib
import hmac

import grpc.aio
from aiohttp import web

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.errors import CodedError, ErrorCode, from_rpc_error
from crosslogic_common.settings import Secret
from crosslogic_gateway.admin.deps import AdminDeps, Person
from crosslogic_gateway.admin.who import Administrator, Place, Role, with_token
from crosslogic_gateway.http import SHOWN_REQUEST_ID

ADMIN_TOKEN_HEADER = "X-Admin-Token"  # noqa: S105  # the name of a header, not a token
_ROLES: dict[int, Role] = {
    pb.ROLE_ADMIN: "admin",
    pb.ROLE_DEVELOPER: "developer",
    pb.ROLE_READ_ONLY: "read_only",
}


class TokenGate:
    """Compares tokens in a time that depends on neither."""

    def __init__(self, token: Secret) -> None:
        self._digest = _digest(token.reveal()) if token else None

    def opens(self, request: web.Request) -> bool:
        """Whether the request shows the token. Never when no token is configured."""
        sent = request.headers.getall(ADMIN_TOKEN_HEADER, [])
        # Hashing first makes both sides equally long: their length tells nothing either.
        matches = hmac.compare_digest(_digest(sent[0] if sent else ""), self._digest or bytes(32))
        return self._digest is not None and len(sent) == 1 and matches


class AdminGate:
    """Says who sent a request."""

    def __init__(self, deps: AdminDeps) -> None:
        self._deps = deps
        self._token = TokenGate(deps.admin_token)

    async def admitted(self, request: web.Request, *, changes: bool) -> Administrator:
        """Who sent it.

        `changes` says whether the request would change anything. Raises UNAUTHENTICATED, alike for a missing and a
        wrong token; PERMISSION_DENIED for people with no place here, and for a cookie that another site made a browser
        send.
        """
        address = self._deps.client_address(request)
        if ADMIN_TOKEN_HEADER in request.headers:
            if self._token.opens(request):
                return with_token(address)
            raise _unauthenticated()
        person = await self._deps.sign_in.person(request, changes=changes) if self._deps.sign_in is not None else None
        if person is None:
            raise _unauthenticated()
        return await self._with_places(person, address, request[SHOWN_REQUEST_ID])

    async def _with_places(self, person: Person, address: str, request_id: str) -> Administrator:
        # Asked each time, and never kept: who was put out is out with his next request.
        asked = pb.ResolveUserRequest(
            issuer=person.issuer,
            subject=person.subject,
            confirmed_email=person.confirmed_email,
            actor=pb.Actor(
                kind=pb.ACTOR_KIND_USER, name=person.confirmed_email[:320], address=address, request_id=request_id
            ),
        )
        try:
            users = (await self._deps.identity().ResolveUser(asked, timeout=self._deps.timeout_s)).users
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        places = tuple(Place(user.org_id, _ROLES[user.role], user.id) for user in users if user.role in _ROLES)
        return Administrator("user", f"{person.issuer} {person.subject}", users[0].email, places, address)


def _unauthenticated() -> CodedError:
    return CodedError(
        ErrorCode.UNAUTHENTICATED,
        f"Send the operators' token in the header `{ADMIN_TOKEN_HEADER}`, or sign in.",
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

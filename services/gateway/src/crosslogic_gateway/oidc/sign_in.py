"""Who sent a request of the admin API: by a bearer ID token (scripts) or by a session's cookie (browsers)."""

from collections.abc import Mapping

from aiohttp import web

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.admin.deps import Person
from crosslogic_gateway.oidc.provider import Provider
from crosslogic_gateway.oidc.session import SESSION_COOKIE, Cookies, Session
from crosslogic_gateway.oidc.tokens import issuer_of, refused


class OidcSignIn:
    """Implements admin.deps.SignIn."""

    def __init__(self, *, providers: Mapping[str, Provider], cookies: Cookies, clock: Clock, public_url: str) -> None:
        """`providers` by issuer. `public_url` is where browsers reach the gateway; empty: they cannot sign in."""
        self._providers = providers
        self._cookies = cookies
        self._clock = clock
        self._public_url = public_url

    async def person(self, request: web.Request, *, changes: bool) -> Person | None:
        """See admin.deps.SignIn."""
        authorization = request.headers.getall("Authorization", [])
        if len(authorization) > 1:
            raise refused("several tokens")
        if authorization:
            scheme, _, token = authorization[0].partition(" ")
            return await self._by_token(token.strip()) if scheme.lower() == "bearer" else None
        session = self._cookies.opened(request.cookies.get(SESSION_COOKIE, ""), Session, self._clock.now())
        # A provider that is trusted no more takes its sessions with it.
        if session is None or session.issuer not in self._providers:
            return None
        if changes:
            self._check_same_site(request)
        return Person(session.issuer, session.subject, session.confirmed_email)

    async def _by_token(self, token: str) -> Person:
        provider = self._providers.get(issuer_of(token))
        if provider is None:
            raise refused("of an issuer that is not trusted")
        claims = await provider.claims(token)
        return Person(claims.issuer, claims.subject, claims.confirmed_email)

    def _check_same_site(self, request: web.Request) -> None:
        """A cookie goes along by itself: what changes something must come from a page of ours."""
        if not self._public_url or request.headers.get("Origin") != self._public_url:
            raise CodedError(ErrorCode.PERMISSION_DENIED, "A change by cookie must come from this site's own page.")

"""Signing in with a browser: authorization code flow with PKCE, state and nonce (RFC 7636, RFC 9700)."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from aiohttp import web

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_gateway.http import answer_headers
from crosslogic_gateway.oidc.provider import Provider
from crosslogic_gateway.oidc.session import SESSION_COOKIE, STATE_COOKIE, Cookies, Session, SignInState
from crosslogic_gateway.oidc.tokens import refused

SIGN_IN = "/sign-in"
CALLBACK = "/sign-in/callback"
SIGN_OUT = "/sign-out"
STATE_S = 600
MAX_CODE_CHARS = 4_096


class SignInPages:
    """The three paths that a browser goes through."""

    def __init__(
        self,
        *,
        providers: Mapping[str, Provider],
        cookies: Cookies,
        clock: Clock,
        public_url: str,
        session_s: int,
        random: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        """`providers` by name; `public_url` empty: nobody signs in here. `random` gives 256 fresh bits."""
        self._providers = providers
        self._cookies = cookies
        self._clock = clock
        self._public_url = public_url
        self._session_s = session_s
        self._random = random

    def routes(self) -> list[web.RouteDef]:
        """As routes of aiohttp."""
        return [
            web.get(SIGN_IN, self.sign_in),
            web.get(CALLBACK, self.callback),
            web.post(SIGN_OUT, self.sign_out),
        ]

    async def sign_in(self, request: web.Request) -> web.Response:
        """GET /sign-in: sends the browser to the provider."""
        provider = self._provider(request.query.get("provider", ""))
        endpoints = await provider.endpoints()
        started = SignInState(
            provider.settings.name, self._random(), self._random(), self._random(), self._unix_s() + STATE_S
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(started.verifier.encode()).digest()).decode().rstrip("=")
        query = urlencode(
            {
                "response_type": "code",
                "client_id": provider.settings.client_id,
                "redirect_uri": self._public_url + CALLBACK,
                "scope": provider.settings.scope,
                "state": started.state,
                "nonce": started.nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        answer = self._redirect(
            request, f"{endpoints.authorization}{'&' if '?' in endpoints.authorization else '?'}{query}"
        )
        # Lax: the provider sends the browser back from its own site.
        self._set(answer, STATE_COOKIE, self._cookies.sealed(started), max_age_s=STATE_S, path=SIGN_IN, same_site="Lax")
        return answer

    async def callback(self, request: web.Request) -> web.Response:
        """GET /sign-in/callback: the browser comes back with a code."""
        started = self._cookies.opened(request.cookies.get(STATE_COOKIE, ""), SignInState, self._clock.now())
        state = request.query.get("state", "")
        if started is None or not hmac.compare_digest(state.encode(), started.state.encode()):
            raise refused("not the browser that began to sign in")
        provider = self._provider(started.provider)
        code = request.query.get("code", "")
        if not 1 <= len(code) <= MAX_CODE_CHARS:
            raise refused(f"the provider said {request.query.get('error', '')[:100]!r}")
        token = await provider.exchange(code, verifier=started.verifier, redirect_uri=self._public_url + CALLBACK)
        claims = await provider.claims(token, nonce=started.nonce)
        session = Session(claims.issuer, claims.subject, claims.confirmed_email, self._unix_s() + self._session_s)
        answer = self._redirect(request, self._public_url + "/admin/me")
        self._set(answer, STATE_COOKIE, "", max_age_s=0, path=SIGN_IN, same_site="Lax")
        # Lax: the browser is on its way back from the provider's site when it is sent on to ours. What changes anything
        # needs our own page as its origin besides.
        self._set(
            answer,
            SESSION_COOKIE,
            self._cookies.sealed(session),
            max_age_s=self._session_s,
            path="/admin",
            same_site="Lax",
        )
        return answer

    async def sign_out(self, request: web.Request) -> web.Response:
        """POST /sign-out: the browser forgets its session."""
        answer = web.Response(status=204, headers=answer_headers(request, "application/json"))
        self._set(answer, SESSION_COOKIE, "", max_age_s=0, path="/admin", same_site="Lax")
        return answer

    def _provider(self, name: str) -> Provider:
        if not name and len(self._providers) == 1:
            name = next(iter(self._providers))
        if not self._public_url or name not in self._providers:
            raise CodedError(ErrorCode.NOT_FOUND, "There is no such provider to sign in with.")
        return self._providers[name]

    def _redirect(self, request: web.Request, location: str) -> web.Response:
        headers = answer_headers(request, "text/plain")
        headers["Location"] = location
        headers["Cache-Control"] = "no-store"
        return web.Response(status=303, headers=headers)

    def _set(self, answer: web.Response, name: str, value: str, *, max_age_s: int, path: str, same_site: str) -> None:
        answer.set_cookie(
            name,
            value,
            max_age=max_age_s,
            path=path,
            httponly=True,
            secure=self._public_url.startswith("https:"),
            samesite=same_site,
        )

    def _unix_s(self) -> int:
        return int(self._clock.now().timestamp())

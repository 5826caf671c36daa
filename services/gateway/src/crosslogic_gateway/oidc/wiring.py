"""Signing in, put together."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp

from crosslogic_common.clock import Clock
from crosslogic_common.settings import Secret
from crosslogic_gateway.oidc.domain import ProviderSettings
from crosslogic_gateway.oidc.pages import SignInPages
from crosslogic_gateway.oidc.provider import TIMEOUT_S, Provider
from crosslogic_gateway.oidc.session import Cookies
from crosslogic_gateway.oidc.sign_in import OidcSignIn


@dataclass(frozen=True, slots=True)
class Oidc:
    """What the application needs of it."""

    sign_in: OidcSignIn
    pages: SignInPages


@contextlib.asynccontextmanager
async def open_oidc(
    providers: tuple[ProviderSettings, ...], *, seal_key: Secret, clock: Clock, public_url: str, session_s: int
) -> AsyncIterator[Oidc]:
    """Signing in for as long as the block lasts. No provider is asked before somebody signs in."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
        made = [Provider(settings=one, http=lambda: http, clock=clock) for one in providers]
        cookies = Cookies(seal_key)
        yield Oidc(
            OidcSignIn(
                providers={one.settings.issuer: one for one in made},
                cookies=cookies,
                clock=clock,
                public_url=public_url,
            ),
            SignInPages(
                providers={one.settings.name: one for one in made},
                cookies=cookies,
                clock=clock,
                public_url=public_url,
                session_s=session_s,
            ),
        )

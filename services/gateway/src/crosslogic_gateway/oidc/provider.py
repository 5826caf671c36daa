"""One OpenID provider: its endpoints, its keys as they change, and the exchange of a code for a token."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from crosslogic_common.clock import Clock
from crosslogic_common.errors import CodedError, ErrorCode
from crosslogic_common.logs import get_logger
from crosslogic_gateway.oidc.domain import Claims, Endpoints, ProviderSettings
from crosslogic_gateway.oidc.settings import sound_url
from crosslogic_gateway.oidc.tokens import PublicKey, UnknownKeyError, claims_of, keys_of, refused

FRESH_S = 600.0
"""How long keys are used before they are looked at again."""
USABLE_S = 86_400.0
"""How long, while the provider is away."""
LEAST_S = 5.0
"""At least so long between two looks, however many tokens name keys that nobody has."""
TIMEOUT_S = 5.0
MAX_DOCUMENT_BYTES = 1024 * 1024


class _Discovery(msgspec.Struct):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


class _Tokens(msgspec.Struct):
    id_token: str


class Provider:
    """Checks a provider's tokens. Keeps its keys; asks for new ones when a token names one that it does not know."""

    def __init__(self, *, settings: ProviderSettings, http: Callable[[], aiohttp.ClientSession], clock: Clock) -> None:
        self.settings = settings
        self._http = http
        self._clock = clock
        self._endpoints: Endpoints | None = None
        self._keys: dict[str, PublicKey] = {}
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._reading = asyncio.Lock()
        self._log = get_logger(__name__)

    async def claims(self, token: str, *, nonce: str | None = None) -> Claims:
        """What a token says. Raises UNAUTHENTICATED; UNAVAILABLE while the provider's keys are not known."""
        await self._refresh(older_than_s=FRESH_S)
        if self._clock.monotonic() - self._read_at > USABLE_S:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the provider's keys are not known", retry_after_s=LEAST_S)
        try:
            return self._claims(token, nonce)
        except UnknownKeyError:
            # The provider may have begun to use a new key.
            await self._refresh(older_than_s=LEAST_S)
        try:
            return self._claims(token, nonce)
        except UnknownKeyError:
            raise refused("signed with a key that the issuer does not have") from None

    async def endpoints(self) -> Endpoints:
        """Where a browser is sent. Raises UNAVAILABLE."""
        if self._endpoints is None:
            await self._refresh(older_than_s=0.0)
        if self._endpoints is None:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the provider is away", retry_after_s=LEAST_S)
        return self._endpoints

    async def exchange(self, code: str, *, verifier: str, redirect_uri: str) -> str:
        """The ID token for a code. Raises UNAUTHENTICATED (the provider does not take the code), UNAVAILABLE."""
        endpoints = await self.endpoints()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self.settings.client_id,
            "code_verifier": verifier,
        }
        if self.settings.client_secret:
            form["client_secret"] = self.settings.client_secret.reveal()
        try:
            async with self._http().post(endpoints.token, data=form, allow_redirects=False) as answer:
                body = await _bounded(answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _away(error) from error
        if answer.status != 200:  # HTTP's own number  # noqa: PLR2004
            raise refused(f"the provider did not take the code: {answer.status}")
        try:
            return msgspec.json.decode(body, type=_Tokens).id_token
        except msgspec.MsgspecError:
            raise refused("the provider sent no ID token") from None

    def _claims(self, token: str, nonce: str | None) -> Claims:
        return claims_of(token, provider=self.settings, keys=self._keys, now=self._clock.now(), nonce=nonce)

    async def _refresh(self, *, older_than_s: float) -> None:
        """Reads the keys anew when they are older, unless it was tried just now. A failure leaves what is known."""
        if self._clock.monotonic() - self._read_at < older_than_s:
            return
        async with self._reading:
            now = self._clock.monotonic()
            if now - self._read_at < older_than_s or now - self._tried_at < LEAST_S:
                return
            self._tried_at = now
            try:
                self._endpoints = await self._discover()
                self._keys = keys_of(await self._json(self._endpoints.jwks, dict[str, Any]))
                self._read_at = self._clock.monotonic()
            except CodedError as error:
                self._log.warning("provider not read", provider=self.settings.name, reason=error.private)

    async def _discover(self) -> Endpoints:
        url = self.settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
        said = await self._json(url, _Discovery)
        if said.issuer != self.settings.issuer:
            raise CodedError(ErrorCode.UNAVAILABLE, private=f"it calls itself {said.issuer[:200]!r}")
        if not all(sound_url(one) for one in (said.authorization_endpoint, said.token_endpoint, said.jwks_uri)):
            raise CodedError(ErrorCode.UNAVAILABLE, private="one of its endpoints is not https")
        return Endpoints(said.authorization_endpoint, said.token_endpoint, said.jwks_uri)

    async def _json(self, url: str, kind: Any) -> Any:
        try:
            async with self._http().get(url, allow_redirects=False) as answer:
                if answer.status != 200:  # noqa: PLR2004  # HTTP's own number
                    raise CodedError(ErrorCode.UNAVAILABLE, private=f"{url}: {answer.status}")
                return msgspec.json.decode(await _bounded(answer), type=kind)
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as error:
            raise _away(error) from error


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_chunked(65_536):
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise CodedError(ErrorCode.UNAVAILABLE, private="the provider's document is too long")
    return body


def _away(error: BaseException) -> CodedError:
    return CodedError(
        ErrorCode.UNAVAILABLE, private=f"the provider is away: {type(error).__name__}: {error}", retry_after_s=LEAST_S
    )

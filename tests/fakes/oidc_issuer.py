"""An OpenID issuer whose keys and claims a test decides, also those that no honest issuer would use."""

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "crosslogic-admin"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class FakeIssuer:
    """Discovery, keys, authorization and token endpoint (RFC 6749, RFC 7636, OpenID Connect Discovery 1.0)."""

    def __init__(self, *, now: float, key: PrivateKey) -> None:
        """`now` is what its clock says, in seconds since the epoch; `key` is its first, `k1`."""
        self.now = now
        self.url = ""
        self.keys: dict[str, PrivateKey] = {}
        self.kid = ""
        self.away = False
        self.lies: dict[str, Any] = {}
        """What its discovery document says in place of the truth."""
        self.asked: list[str] = []
        self.signed_in: dict[str, Any] = {"sub": "alice", "email": "alice@example.com", "email_verified": True}
        """Claims of whoever is in front of the browser."""
        self._codes: dict[str, dict[str, str]] = {}
        self.rotate("k1", key)

    def rotate(self, kid: str, key: PrivateKey, *, keep_old: bool = False) -> None:
        """Signs with a new key from now on; the old one is gone unless it is kept."""
        if not keep_old:
            self.keys.clear()
        self.keys[kid] = key
        self.kid = kid

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Sound claims of a sound token, with changes; None leaves one out."""
        sound = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "iat": self.now,
            "exp": self.now + 600,
            "email": "alice@example.com",
            "email_verified": True,
        }
        return {name: value for name, value in (sound | changed).items() if value is not None}

    def token(self, *, key: PrivateKey | None = None, headers: dict[str, Any] | None = None, **changed: Any) -> str:
        """An ID token."""
        chosen = key or self.keys[self.kid]
        algorithm = "RS256" if isinstance(chosen, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(self.claims(**changed), chosen, algorithm, headers={"kid": self.kid, **(headers or {})})

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeIssuer"]:
        """Serves on a port of its own."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/.well-known/openid-configuration", self._discovery),
                web.get("/jwks", self._jwks),
                web.get("/authorize", self._authorize),
                web.post("/token", self._token),
            ]
        )
        async with TestServer(app) as server:
            self.url = str(server.make_url("")).rstrip("/")
            yield self

    async def _discovery(self, request: web.Request) -> web.Response:
        await self._answering(request)
        said = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
        }
        return web.json_response(said | self.lies)

    async def _jwks(self, request: web.Request) -> web.Response:
        await self._answering(request)
        return web.json_response({"keys": [_jwk(kid, key) for kid, key in self.keys.items()]})

    async def _authorize(self, request: web.Request) -> web.Response:
        """Whoever is in front of the browser agrees at once."""
        await self._answering(request)
        code = secrets.token_urlsafe(16)
        self._codes[code] = dict(request.query)
        raise web.HTTPFound(f"{request.query['redirect_uri']}?code={code}&state={request.query['state']}")

    async def _token(self, request: web.Request) -> web.Response:
        await self._answering(request)
        form = await request.post()
        asked = self._codes.pop(str(form.get("code")), None)
        verifier = str(form.get("code_verifier", ""))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        if asked is None or asked["code_challenge"] != challenge or asked["redirect_uri"] != form.get("redirect_uri"):
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = self.token(**({"nonce": asked["nonce"], "aud": asked["client_id"]} | self.signed_in))
        return web.json_response({"id_token": token, "access_token": "x", "token_type": "Bearer"})

    async def _answering(self, request: web.Request) -> None:
        self.asked.append(request.path)
        if self.away:
            transport = request.transport
            assert transport is not None
            transport.abort()
            await asyncio.sleep(60)


def _jwk(kid: str, key: PrivateKey) -> dict[str, Any]:
    public = key.public_key()
    text = RSAAlgorithm.to_jwk(public) if isinstance(public, rsa.RSAPublicKey) else ECAlgorithm.to_jwk(public)
    return {**json.loads(text), "kid": kid, "use": "sig"}

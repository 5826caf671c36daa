"""Administrators sign in with an OpenID provider that others wrote, running as a process of its own."""

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.clock import SystemClock
from crosslogic_common.settings import Secret
from crosslogic_dev.ports import free_port
from crosslogic_dev.waiting import wait_until
from crosslogic_gateway.oidc.domain import ProviderSettings
from crosslogic_gateway.oidc.wiring import open_oidc
from tests.fakes.admin_neighbours import AdminClient, Neighbours

PUBLIC = "http://127.0.0.1:8080"
PEOPLE = (
    {"sub": "alice", "email": "alice@example.com", "email_verified": True, "name": "Alice"},
    {"sub": "mallory", "email": "alice@example.com", "email_verified": False, "name": "Mallory"},
)


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    url = f"http://127.0.0.1:{(port := free_port())}"
    people = [word for person in PEOPLE for word in ("--user-claims", json.dumps(person))]
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", "true", *people]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert wait_until(lambda: _answers(url), timeout_s=60.0, poll_s=0.05)
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/.well-known/openid-configuration", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def neighbours() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def browser(issuer: str, neighbours: Neighbours) -> AsyncIterator[AdminClient]:
    provider = ProviderSettings("test", issuer, "crosslogic", client_secret=Secret("not checked by it"))
    seal_key = Secret(base64.b64encode(bytes(32)).decode())
    async with open_oidc((provider,), seal_key=seal_key, clock=SystemClock(), public_url=PUBLIC, session_s=600) as oidc:
        app: web.Application = neighbours.app(replace(neighbours.deps, sign_in=oidc.sign_in))
        app.add_routes(oidc.pages.routes())
        async with AdminClient(TestServer(app), cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
            yield client


async def walk(browser: AdminClient, subject: str) -> int:
    """Signs `subject` in; the status of the last step."""
    async with browser.get("/sign-in", allow_redirects=False) as first:
        location = first.headers["Location"]
    async with (
        aiohttp.ClientSession() as there,
        there.post(location, data={"sub": subject}, allow_redirects=False) as agreed,
    ):
        back = urlsplit(agreed.headers["Location"])
    async with browser.get(f"{back.path}?{back.query}", allow_redirects=False) as last:
        return last.status


async def test_a_person_signs_in_and_is_who_the_provider_says(browser: AdminClient, neighbours: Neighbours) -> None:
    neighbours.identity.let_in(pb.CreateUserRequest(email="alice@example.com", role=pb.ROLE_READ_ONLY))
    assert await walk(browser, "alice") == 303
    async with browser.get("/admin/me") as answer:
        assert (await answer.json())["name"] == "alice@example.com"
    async with browser.post("/admin/orgs", json={"name": "x"}, headers={"Origin": PUBLIC}) as answer:
        assert answer.status == 403


async def test_somebody_who_merely_claims_the_email_is_not_that_person(
    browser: AdminClient, neighbours: Neighbours
) -> None:
    neighbours.identity.let_in(pb.CreateUserRequest(email="alice@example.com", role=pb.ROLE_ADMIN))
    assert await walk(browser, "mallory") == 303
    async with browser.get("/admin/me") as answer:
        assert answer.status == 403


async def test_a_script_uses_the_providers_id_token_as_its_bearer(
    browser: AdminClient, neighbours: Neighbours, issuer: str
) -> None:
    neighbours.identity.let_in(pb.CreateUserRequest(email="alice@example.com", role=pb.ROLE_ADMIN))
    async with aiohttp.ClientSession(issuer) as there:
        query = (
            "/oauth2/authorize?client_id=crosslogic&redirect_uri=http://127.0.0.1/x&response_type=code"
            "&scope=openid%20email&nonce=n1&state=s"
        )
        async with there.post(query, data={"sub": "alice"}, allow_redirects=False) as agreed:
            code = urlsplit(agreed.headers["Location"]).query.partition("code=")[2].partition("&")[0]
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": "http://127.0.0.1/x",
            "client_id": "crosslogic",
            "client_secret": "x",
        }
        async with there.post("/oauth2/token", data=form) as answer:
            token = (await answer.json())["id_token"]
    async with browser.get("/admin/me", headers={"Authorization": f"Bearer {token}"}) as me:
        assert me.status == 200
    async with browser.get("/admin/me", headers={"Authorization": f"Bearer {token}x"}) as me:
        assert me.status == 401

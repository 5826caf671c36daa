"""Administrators sign in with an OpenID provider, and nobody signs in as somebody else."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import jwt
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crosslogic.identity.v1 import identity_pb2 as pb
from crosslogic_common.settings import Secret
from crosslogic_gateway.oidc.domain import ProviderSettings
from crosslogic_gateway.oidc.provider import LEAST_S, USABLE_S
from crosslogic_gateway.oidc.session import SESSION_COOKIE, STATE_COOKIE
from crosslogic_gateway.oidc.settings import providers, public_url
from crosslogic_gateway.oidc.wiring import open_oidc
from tests.fakes.admin_neighbours import AdminClient, Neighbours
from tests.fakes.identity_store import FakeClock
from tests.fakes.oidc_issuer import AUDIENCE, FakeIssuer

SEAL_KEY = Secret(base64.b64encode(bytes(32)).decode())
PUBLIC = "http://127.0.0.1:8080"


class Place:
    """The admin API with one provider that it trusts, and its neighbours."""

    def __init__(self, issuer: FakeIssuer, clock: FakeClock, neighbours: Neighbours, client: AdminClient) -> None:
        self.issuer = issuer
        self.clock = clock
        self.neighbours = neighbours
        self.client = client

    def user(self, email: str, *, org_id: str = "", role: "pb.Role.ValueType" = pb.ROLE_ADMIN) -> pb.User:
        """Lets a person in."""
        user: pb.User = self.neighbours.identity.let_in(pb.CreateUserRequest(org_id=org_id, email=email, role=role))
        return user

    async def status(self, token: str, path: str = "/admin/me", method: str = "GET", **kwargs: Any) -> int:
        """What a request with the token is answered."""
        headers = {"Authorization": f"Bearer {token}"}
        async with self.client.request(method, path, headers=headers, **kwargs) as answer:
            return answer.status


@pytest.fixture(scope="module")
def rsa_keys() -> list[rsa.RSAPrivateKey]:
    """Three, made once: making one takes longer than a test."""
    return [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3)]


@asynccontextmanager
async def placed(key: rsa.RSAPrivateKey, **provider: Any) -> AsyncIterator[Place]:
    clock = FakeClock()
    issuer = FakeIssuer(now=clock.now().timestamp(), key=key)
    neighbours = Neighbours()
    async with issuer.running():
        settings = ProviderSettings("test", issuer.url, AUDIENCE, **provider)
        async with open_oidc((settings,), seal_key=SEAL_KEY, clock=clock, public_url=PUBLIC, session_s=3600) as oidc:
            app = neighbours.app(replace(neighbours.deps, sign_in=oidc.sign_in))
            app.add_routes(oidc.pages.routes())
            # The browser's jar takes cookies of an address, too.
            jar = aiohttp.CookieJar(unsafe=True)
            async with AdminClient(TestServer(app), cookie_jar=jar) as client:
                yield Place(issuer, clock, neighbours, client)


@pytest.fixture
async def place(rsa_keys: list[rsa.RSAPrivateKey]) -> AsyncIterator[Place]:
    async with placed(rsa_keys[0]) as made:
        yield made


# Scripts: ID tokens as bearers


async def test_a_person_who_was_let_in_is_known_by_a_token_of_the_provider(place: Place) -> None:
    place.user("alice@example.com")
    headers = {"Authorization": f"Bearer {place.issuer.token()}"}
    async with place.client.get("/admin/me", headers=headers) as answer:
        me = await answer.json()
    assert (me["kind"], me["name"]) == ("user", "alice@example.com")
    assert me["places"] == [{"org_id": None, "role": "admin"}]


async def test_somebody_whom_the_provider_knows_and_we_do_not_is_refused(place: Place) -> None:
    assert await place.status(place.issuer.token()) == 403


async def test_a_user_who_is_put_out_is_out_with_the_next_request(place: Place) -> None:
    user = place.user("alice@example.com")
    token = place.issuer.token()
    assert await place.status(token) == 200
    del place.neighbours.identity.users[user.id]
    assert await place.status(token) == 403


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "another-app"},
        {"aud": ["another-app"]},
        {"aud": [AUDIENCE, "another-app"]},
        {"aud": [AUDIENCE, "another-app"], "azp": "another-app"},
        {"azp": "another-app"},
        {"aud": None},
        {"iss": "https://accounts.example.com"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 5},
        {"exp": None},
        {"iat": None},
        {"exp": 1},
        {"exp": "never"},
        {"exp": float("inf")},
        {"nbf": 10**11},
        {"iat": 10**11},
    ],
    ids=str,
)
async def test_a_token_that_is_not_for_us_now_opens_nothing(place: Place, changed: dict[str, Any]) -> None:
    place.user("alice@example.com")
    if changed == {"exp": "never"} or changed == {"exp": float("inf")}:
        token = jwt.api_jws.encode(
            json.dumps(place.issuer.claims(**changed)).encode(),
            place.issuer.keys["k1"],
            "RS256",
            headers={"kid": "k1"},
        )
    else:
        token = place.issuer.token(**changed)
    assert await place.status(token) == 401


async def test_a_token_signed_by_anything_but_the_issuers_key_opens_nothing(
    place: Place, rsa_keys: list[rsa.RSAPrivateKey]
) -> None:
    place.user("alice@example.com")
    claims = place.issuer.claims()
    stranger = rsa_keys[1]
    public = place.issuer.keys["k1"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"k1"}').rstrip(b"=")
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    hmac_key = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    confused = hmac_key.sign(head + b"." + payload, public)
    good = place.issuer.token()
    head_of_good, body_of_good, signature = good.split(".")
    tokens = [
        place.issuer.token(key=stranger),
        jwt.encode(claims, "", "none", headers={"kid": "k1"}),
        (head + b"." + payload + b"." + base64.urlsafe_b64encode(confused).rstrip(b"=")).decode(),
        f"{head_of_good}.{payload.decode()}.{signature}",
        f"{head_of_good}.{body_of_good}.",
        place.issuer.token(headers={"kid": "../../etc/passwd"}),
        place.issuer.token(headers={"typ": "at+jwt"}),
        place.issuer.token(key=ec.generate_private_key(ec.SECP256R1())),
        "",
        "a.b.c",
        "x" * 7_000,
    ]
    assert await place.status(good) == 200
    assert [await place.status(token) for token in tokens] == [401] * len(tokens)


async def test_a_key_that_the_issuer_begins_to_use_is_fetched_and_one_it_gave_up_is_forgotten(
    place: Place, rsa_keys: list[rsa.RSAPrivateKey]
) -> None:
    place.user("alice@example.com")
    old = place.issuer.token()
    assert await place.status(old) == 200
    place.clock.pass_by(LEAST_S)
    place.issuer.rotate("k2", rsa_keys[2])
    assert await place.status(place.issuer.token()) == 200
    assert await place.status(old) == 401
    place.clock.pass_by(LEAST_S)
    place.issuer.rotate("k3", ec.generate_private_key(ec.SECP256R1()), keep_old=True)
    assert await place.status(place.issuer.token()) == 200


async def test_tokens_with_made_up_keys_do_not_make_us_flood_the_issuer(place: Place) -> None:
    for number in range(20):
        assert await place.status(place.issuer.token(headers={"kid": f"made-up-{number}"})) == 401
    assert place.issuer.asked.count("/jwks") == 1


async def test_administrators_get_in_while_the_provider_is_away_and_not_for_ever(place: Place) -> None:
    place.user("alice@example.com")
    assert await place.status(place.issuer.token()) == 200
    place.issuer.away = True
    place.clock.pass_by(3600)
    later = place.clock.now().timestamp()
    assert await place.status(place.issuer.token(iat=later, exp=later + 60)) == 200
    place.clock.pass_by(USABLE_S)
    later = place.clock.now().timestamp()
    assert await place.status(place.issuer.token(iat=later, exp=later + 60)) == 503


@pytest.mark.parametrize(
    "lies",
    [
        {"issuer": "https://accounts.example.com"},
        {"jwks_uri": "http://192.0.2.1/jwks"},
        {"token_endpoint": "ftp://127.0.0.1/"},
        {"jwks_uri": 5},
    ],
    ids=str,
)
async def test_a_provider_that_says_it_is_another_or_sends_us_elsewhere_is_not_used(
    place: Place, lies: dict[str, Any]
) -> None:
    place.issuer.lies = lies
    assert await place.status(place.issuer.token()) == 503


async def test_an_email_that_the_issuer_did_not_confirm_is_nobodys(place: Place) -> None:
    place.user("alice@example.com")
    for changed in ({"email_verified": False}, {"email_verified": None}, {"email_verified": 1}, {"email": 5}):
        assert await place.status(place.issuer.token(**changed)) == 403


async def test_a_company_issuer_without_confirmation_can_be_trusted_with_its_own_claim(
    rsa_keys: list[rsa.RSAPrivateKey],
) -> None:
    async with placed(
        rsa_keys[0], email_claim="preferred_username", trust_email=True, email_domains=("example.com",)
    ) as place:
        place.user("alice@example.com")
        place.user("root@platform.example")
        token = place.issuer.token(email=None, email_verified=None, preferred_username="Alice@Example.com")
        assert await place.status(token) == 200
        # It cannot vouch for people of anybody else.
        for claimed in (
            "root@platform.example",
            "root@platform.example@evil.example",
            "root@example.com.platform.example",
        ):
            token = place.issuer.token(sub="mallory", email_verified=None, preferred_username=claimed)
            assert await place.status(token) == 403


async def test_a_scripts_own_audience_is_taken_when_it_is_configured(rsa_keys: list[rsa.RSAPrivateKey]) -> None:
    async with placed(rsa_keys[0], audiences=("script",)) as place:
        place.user("alice@example.com")
        assert await place.status(place.issuer.token(aud="script", azp="script")) == 200


# Browsers


async def walk(place: Place) -> ClientResponse:
    """A browser signs in; the answer of the callback."""
    async with place.client.get("/sign-in", allow_redirects=False) as first:
        assert first.status == 303
        location = first.headers["Location"]
    async with aiohttp.ClientSession() as elsewhere, elsewhere.get(location, allow_redirects=False) as agreed:
        back = urlsplit(agreed.headers["Location"])
    return await place.client.get(f"{back.path}?{back.query}", allow_redirects=False)


async def test_a_browser_signs_in_and_out(place: Place) -> None:
    place.user("alice@example.com")
    answer = await walk(place)
    assert (answer.status, answer.headers["Location"]) == (303, f"{PUBLIC}/admin/me")
    cookie = answer.cookies[SESSION_COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/admin")
    assert "alice" not in cookie.value
    async with place.client.get("/admin/me") as me:
        assert (await me.json())["name"] == "alice@example.com"
    async with place.client.post("/sign-out") as out:
        assert out.status == 204
    async with place.client.get("/admin/me") as me:
        assert me.status == 401


async def test_what_the_browser_sends_by_itself_changes_nothing_from_another_site(place: Place) -> None:
    place.user("alice@example.com")
    await walk(place)
    for headers in ({}, {"Origin": "https://evil.example.com"}, {"Origin": "null"}):
        async with place.client.post("/admin/orgs", json={"name": "x"}, headers=headers) as answer:
            assert answer.status == 403
    async with place.client.post("/admin/orgs", json={"name": "x"}, headers={"Origin": PUBLIC}) as answer:
        assert answer.status == 201


async def test_a_session_ends_and_a_changed_cookie_is_none(place: Place) -> None:
    place.user("alice@example.com")
    session = (await walk(place)).cookies[SESSION_COOKIE].value
    place.client.session.cookie_jar.clear()
    flipped = session[:20] + ("A" if session[20] != "A" else "B") + session[21:]
    for value, status in ((session, 200), (flipped, 401), ("", 401), ("x" * 9_000, None), ("é", 401)):
        if status is None:
            continue
        async with place.client.get("/admin/me", cookies={SESSION_COOKIE: value}) as answer:
            assert answer.status == status
        place.client.session.cookie_jar.clear()
    place.clock.pass_by(3601)
    async with place.client.get("/admin/me", cookies={SESSION_COOKIE: session}) as answer:
        assert answer.status == 401


async def test_a_state_cookie_is_no_session(place: Place) -> None:
    async with place.client.get("/sign-in", allow_redirects=False) as first:
        state = first.cookies[STATE_COOKIE].value
    async with place.client.get("/admin/me", cookies={SESSION_COOKIE: state}) as answer:
        assert answer.status == 401


async def test_a_browser_that_did_not_begin_cannot_finish(place: Place) -> None:
    place.user("alice@example.com")
    async with place.client.get("/sign-in", allow_redirects=False) as first:
        location = first.headers["Location"]
    async with aiohttp.ClientSession() as elsewhere, elsewhere.get(location, allow_redirects=False) as agreed:
        back = urlsplit(agreed.headers["Location"])
    query = parse_qs(back.query)
    for changed in ({"state": "other"}, {"state": ""}, {"code": ""}, {"code": "x" * 5_000}, {"code": "made-up"}):
        params = {name: values[0] for name, values in query.items()} | changed
        async with place.client.get(back.path, params=params, allow_redirects=False) as answer:
            assert answer.status == 401, changed
    place.client.session.cookie_jar.clear()
    async with place.client.get(f"{back.path}?{back.query}", allow_redirects=False) as answer:
        assert answer.status == 401


async def test_a_token_with_another_sign_ins_nonce_is_refused(place: Place) -> None:
    place.user("alice@example.com")
    place.issuer.signed_in["nonce"] = "of another sign-in"
    assert (await walk(place)).status == 401


async def test_where_browsers_are_not_configured_nobody_signs_in() -> None:
    async with open_oidc((), seal_key=SEAL_KEY, clock=FakeClock(), public_url="", session_s=60) as oidc:
        app = Neighbours().app()
        app.add_routes(oidc.pages.routes())
        async with AdminClient(TestServer(app)) as client:
            for path in ("/sign-in", "/sign-in?provider=test"):
                async with client.get(path, allow_redirects=False) as answer:
                    assert answer.status == 404
            async with client.get("/sign-in/callback?code=x&state=", allow_redirects=False) as answer:
                assert answer.status == 401


# Settings


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '[{"name": "a"}]',
        '[{"name": "a", "issuer": "http://accounts.example.com", "client_id": "x"}]',
        '[{"name": "a", "issuer": "https://login.microsoftonline.com/common/v2.0", "client_id": "x"}]',
        '[{"name": "a", "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0", "client_id": "x"}]',
        '[{"name": "a", "issuer": "https://a.example.com", "client_id": "x", "trust_email": true}]',
        '[{"name": "A b", "issuer": "https://a.example.com", "client_id": "x"}]',
        '[{"name": "a", "issuer": "https://a.example.com", "client_id": "x", "client_secret": "in the clear"}]',
        '[{"name": "a", "issuer": "https://a.example.com", "client_id": "x", "client_secret_file": "/none/such"}]',
        (
            '[{"name": "a", "issuer": "https://a.example.com", "client_id": "x"},'
            ' {"name": "b", "issuer": "https://a.example.com", "client_id": "x"}]'
        ),
    ],
)
def test_a_provider_that_cannot_be_trusted_stops_the_start(text: str) -> None:
    with pytest.raises(ValueError, match=r"provider|issuer|secret"):
        providers(text)


def test_google_and_a_companys_azure_are_taken() -> None:
    found = providers(
        '[{"name": "google", "issuer": "https://accounts.google.com", "client_id": "x.apps.googleusercontent.com"},'
        ' {"name": "azure", "issuer": "https://login.microsoftonline.com/0e3a4b0e-8c0f-4d36-9f3e-6b0c5a4d2f11/v2.0",'
        ' "client_id": "y", "email_claim": "preferred_username", "trust_email": true,'
        ' "email_domains": ["Example.com"]}]'
    )
    assert [one.name for one in found] == ["google", "azure"]
    assert found[1].email_domains == ("example.com",)
    assert providers("") == ()
    assert public_url("https://api.example.com/") == "https://api.example.com"
    with pytest.raises(ValueError, match="https"):
        public_url("http://api.example.com")

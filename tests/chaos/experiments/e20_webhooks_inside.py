"""20: webhooks to addresses inside, however written, by names that change and by redirects: none is reached."""

import asyncio
import json
import random
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from crosslogic_common.public_addresses import AddressRules, networks
from crosslogic_orchestrator.notify.ports import SendError
from crosslogic_orchestrator.notify.posting import PinnedPoster
from crosslogic_orchestrator.notify.targets import read_url
from tests.chaos.checker import check
from tests.chaos.world import NOTIFY_ALLOWED, World
from tests.fakes.notify_receiver import Receiver, answering, receiver

ROUTES = "/admin/notifications/routes"
OUTER = "127.0.0.2"
"""In the network that operators allowed themselves; what is inside is at 127.0.0.1."""
METADATA = ("169.254.169.254", "[::ffff:169.254.169.254]", "2852039166", "0xa9fea9fe", "[fd00:ec2::254]")
INSIDE = (
    *(
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
    ),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]"),
    *("[64:ff9b::127.0.0.1]", "[2002:7f00:1::]"),
)
REFUSED = {"The host has no address that may be reached.", "The connection to the receiver failed."}


async def run(world: World) -> None:
    """Tries many ways in; afterwards a harmless one works, and clients were served all the while."""
    async with receiver() as inner, receiver(OUTER) as outer:
        made: list[str] = []
        try:
            asked = [world.client.ask(world.a_request(number, max_tokens=4)) for number in range(4)]
            served = asyncio.gather(*asked)
            await _written_in_other_ways(world, inner, made)
            await _of_tenants(world, inner, made)
            await _redirected(world, inner, outer, made)
            await _resolved_twice(world.chance, inner, outer, rounds=world.scaled(50, least=10))
            await _through_the_outbox(world, inner, outer, made)
            answers = await served
        finally:
            for each in made:
                await asyncio.to_thread(world.suite.admin.must, "DELETE", f"{ROUTES}/{each}")
        assert inner.connections == 0, "something inside was reached"
    check(world, answers)
    await asyncio.to_thread(_check_audit, world, made)


async def _written_in_other_ways(world: World, inner: Receiver, made: list[str]) -> None:
    hosts = [*INSIDE, *METADATA]
    world.chance.shuffle(hosts)
    for host in hosts[: world.scaled(len(hosts), least=8)]:
        route = await _route(world, made, f"http://{host}:{inner.port}/")
        tried = await asyncio.to_thread(world.suite.admin.must, "POST", f"{ROUTES}/{route}/test")
        assert not tried["sent"], host
        assert tried["error"] == "The host has no address that may be reached.", (host, tried)


async def _of_tenants(world: World, inner: Receiver, made: list[str]) -> None:
    """Not even to what operators allowed themselves, and only HTTPS at its own port."""
    org = await asyncio.to_thread(world.suite.admin.must, "POST", "/admin/orgs", {"name": "Curious"})
    for url in (f"http://{OUTER}/", f"https://{OUTER}:{inner.port}/", f"https://a@{OUTER}/", "gopher://127.0.0.1/"):
        answer = await asyncio.to_thread(world.suite.admin.ask, "POST", ROUTES, _body(url, org["id"]))
        assert answer.status == 400, (url, answer.status)
    for host in (OUTER, *world.chance.sample([*INSIDE, *METADATA], 3)):
        route = await _route(world, made, f"https://{host}/", org["id"])
        tried = await asyncio.to_thread(world.suite.admin.must, "POST", f"{ROUTES}/{route}/test")
        assert tried == {"sent": False, "error": "The host has no address that may be reached."}, (host, tried)


async def _redirected(world: World, inner: Receiver, outer: Receiver, made: list[str]) -> None:
    route = await _route(world, made, f"http://{OUTER}:{outer.port}/")
    for status in (301, 302, 303, 307, 308):
        outer.answers = [answering(status, f"Location: http://127.0.0.1:{inner.port}/")]
        tried = await asyncio.to_thread(world.suite.admin.must, "POST", f"{ROUTES}/{route}/test")
        assert "redirects are not followed" in tried["error"]
    outer.answers = []
    tried = await asyncio.to_thread(world.suite.admin.must, "POST", f"{ROUTES}/{route}/test")
    assert tried == {"sent": True, "error": None}


async def _resolved_twice(chance: random.Random, inner: Receiver, outer: Receiver, *, rounds: int) -> None:
    """Rebinding, with a resolver of our own: the suite's processes ask the system's."""
    rules = AddressRules(networks(NOTIFY_ALLOWED))

    async def resolve(host: str, port: int) -> Sequence[str]:
        return chance.sample([OUTER, "127.0.0.1", "::1", "::ffff:127.0.0.1"], chance.randint(1, 3))

    poster = PinnedPoster(resolve=resolve, context=ssl.create_default_context(), timeout_s=30.0)
    said = set[str]()
    for _ in range(rounds):
        where = read_url(f"http://evil.example:{chance.choice((inner.port, outer.port))}/", operators=True)
        try:
            await poster.post(where, headers={}, body=b"{}", rules=rules)
        except SendError as error:
            said.add(str(error))
    assert said <= REFUSED


async def _through_the_outbox(world: World, inner: Receiver, outer: Receiver, made: list[str]) -> None:
    """As it is in earnest: an event of the fleet, one route that leads inside and one that does not."""
    bad = await _route(world, made, f"http://2130706433:{inner.port}/", kinds=["node_lost"])
    good = await _route(world, made, f"http://{OUTER}:{outer.port}/", kinds=["node_lost"])
    before = len(outer.got)
    await asyncio.to_thread(_lose_a_machine, world.suite.database_url)
    async with asyncio.timeout(60):
        while len(outer.got) == before:
            await asyncio.sleep(0.05)
        while not (rows := await _deliveries(world, bad)) or not rows[0]["attempts"] or not rows[0]["last_error"]:
            await asyncio.sleep(0.05)
    sent = outer.got[-1]
    assert json.loads(sent.body)["type"] == "node_lost"
    (told,) = await _deliveries(world, good)
    assert sent.headers["webhook-id"] == told["id"]
    assert rows[0]["last_error"] == "The host has no address that may be reached."


async def _deliveries(world: World, route: str) -> list[dict[str, Any]]:
    path = f"/admin/notifications/deliveries?route_id={route}"
    found: list[dict[str, Any]] = (await asyncio.to_thread(world.suite.admin.must, "GET", path))["data"]
    return found


def _lose_a_machine(url: str) -> None:
    with psycopg.connect(url, connect_timeout=5) as connection:
        connection.execute(
            "INSERT INTO fleet.events (kind, instance_id, at, text) "
            "VALUES ('node_lost', gen_random_uuid(), %s, 'Gone.')",
            (datetime.now(UTC),),
        )


async def _route(world: World, made: list[str], url: str, org_id: str = "", kinds: Sequence[str] = ("test",)) -> str:
    answer = await asyncio.to_thread(world.suite.admin.must, "POST", ROUTES, _body(url, org_id, kinds))
    made.append(answer["id"])
    return str(answer["id"])


def _body(url: str, org_id: str, kinds: Sequence[str] = ("test",)) -> dict[str, Any]:
    return {"name": "inside", "channel": "webhook", "target": url, "org_id": org_id, "kinds": list(kinds)}


def _check_audit(world: World, made: list[str]) -> None:
    """A row for each admin action, and none that tells a target."""
    rows = world.suite.admin.must("GET", "/admin/audit?page_size=1000")["data"]
    ended = {row["object_id"] for row in rows if row["action"] == "deleteNotificationRoute"}
    assert ended >= set(made)
    created = [row for row in rows if row["action"] == "createNotificationRoute" and row["outcome"] == "succeeded"]
    assert len(created) >= len(made)
    assert not any("://" in json.dumps(row["after"]) for row in created)

"""The typed admin client: as the OpenAPI document has it, types that hold, and it works, also with what is hostile."""

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from crosslogic_admin import AdminClient, AdminError, UnreachableError, rows, transport
from crosslogic_gateway.openapi import build_document
from scripts import admin_client
from tests.fakes.admin_neighbours import TOKEN, Neighbours

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "libs/admin_client/src"
GENERATED = SOURCE / "crosslogic_admin/client.py"


@pytest.fixture
async def url() -> AsyncIterator[str]:
    server = TestServer(Neighbours().app())
    await server.start_server()
    yield str(server.make_url("/"))
    await server.close()


def test_it_has_what_the_openapi_document_of_this_version_has() -> None:
    wanted = admin_client.source(build_document("0.1.0"))
    assert GENERATED.read_text(encoding="utf-8") == wanted, "run `make admin-client` and commit libs/admin_client"


def test_every_operation_has_a_method_and_every_parameter_an_argument() -> None:
    for path, item in build_document("0.1.0")["paths"].items():
        for operation in item.values() if path.startswith("/admin") else ():
            method = getattr(AdminClient, admin_client.method_name(operation["operationId"]))
            arguments = set(inspect.signature(method).parameters) - {"self", "body", "idempotency_key"}
            wanted = {
                admin_client.argument_name(each["name"])
                for each in operation.get("parameters", ())
                if each["in"] in ("path", "query")
            }
            assert arguments == wanted, operation["operationId"]


def test_types_hold_under_a_strict_checker_and_find_a_wrong_use(tmp_path: Path) -> None:
    use = tmp_path / "use.py"
    use.write_text(
        "from crosslogic_admin import AdminClient\n"
        "client = AdminClient('http://127.0.0.1:1', 'token')\n"
        "name: str = client.list_orgs(page_size=3)['data'][0]['name']\n"
        "client.create_org({'nam': 'x'})\n"
        "client.list_orgs(pagesize=3)\n"
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"), str(use)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(SOURCE)},
    )
    errors = [line.partition(": error:")[0] for line in checked.stdout.splitlines() if ": error:" in line]
    assert sorted(set(errors)) == ["use.py:4", "use.py:5"], checked.stdout + checked.stderr


async def test_it_speaks_to_the_admin_api(url: str) -> None:
    good, wrong = AdminClient(url, TOKEN), AdminClient(url, "wrong")
    made = [await asyncio.to_thread(good.create_org, {"name": f"Acme {number}"}) for number in range(5)]
    listed = await asyncio.to_thread(lambda: list(rows(good.list_orgs, page_size=2)))
    assert {org["id"] for org in made} <= {org["id"] for org in listed}
    with pytest.raises(AdminError) as refused:
        await asyncio.to_thread(wrong.list_orgs)
    assert refused.value.status == 401
    with pytest.raises(AdminError) as invalid:
        await asyncio.to_thread(good.create_org, {"name": ""})
    assert (invalid.value.status, bool(invalid.value.code), bool(invalid.value.message)) == (400, True, True)


async def test_an_id_never_leads_to_another_path(url: str) -> None:
    client = AdminClient(url, TOKEN)
    for nonsense in ("../plans", "a/b", "?page_size=1", "%2e%2e/plans"):
        with pytest.raises(AdminError) as missing:
            await asyncio.to_thread(client.get_org, nonsense)
        assert missing.value.status in (400, 404), nonsense
    for nothing in ("", ".", ".."):
        with pytest.raises(AdminError, match="names nothing"):
            client.get_org(nothing)


async def test_the_token_goes_to_nobody_else_and_what_is_no_gateway_is_told_so() -> None:
    seen: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(request.headers.get("X-Admin-Token", ""))
        return web.json_response({"data": []})

    async def moved_away(_: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    async def login_page(_: web.Request) -> web.Response:
        return web.Response(text="<html>a login page</html>")

    app = web.Application()
    app.router.add_get("/admin/orgs", moved_away)
    app.router.add_get("/elsewhere", elsewhere)
    app.router.add_get("/admin/plans", login_page)
    server = TestServer(app)
    await server.start_server()
    client = AdminClient(str(server.make_url("/")), TOKEN)
    with pytest.raises(AdminError) as moved:
        await asyncio.to_thread(client.list_orgs)
    with pytest.raises(AdminError, match="not the gateway's: <html>"):
        await asyncio.to_thread(client.list_plans)
    await server.close()
    assert (moved.value.status, seen) == (302, [])


async def test_a_machine_that_says_nothing_for_longer_than_an_answer_may_take_is_still_followed() -> None:
    async def launched(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for state in ("running", "succeeded"):
            await answer.write(f'data: {{"status": "{state}"}}\n\n'.encode())
            await asyncio.sleep(0.6)
        return answer

    app = web.Application()
    app.router.add_get("/admin/instances/job/events", launched)
    server = TestServer(app)
    await server.start_server()
    client = AdminClient(str(server.make_url("/")), TOKEN, timeout_s=0.2)
    seen = await asyncio.to_thread(lambda: [each["status"] for each in client.watch_instance_job("job")])
    await server.close()
    assert seen == ["running", "succeeded"]


async def test_an_answer_that_does_not_come_or_breaks_off_is_told_as_one_error() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/admin/orgs" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")
        elif b"/admin/plans" in head:
            writer.write(b"hello\r\n")
        elif b"/long/" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\ndata: {}\n")
        elif b"/chunked/" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: {}\n\r\n")
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client, hasty = AdminClient(address, TOKEN), AdminClient(address, TOKEN, timeout_s=0.2)
    cut = (lambda: list(client.watch_instance_job("long")), lambda: list(client.watch_instance_job("chunked")))
    for call in (client.list_orgs, client.list_plans, hasty.me, *cut):
        with pytest.raises(UnreachableError, match="does not answer"):
            await asyncio.to_thread(call)
    server.close()
    await server.wait_closed()
    with pytest.raises(UnreachableError, match="refused"):
        await asyncio.to_thread(client.list_orgs)
    for nonsense in ("file:///etc", "127.0.0.1:8080", "", "http://"):
        with pytest.raises(ValueError, match="is no address"):
            AdminClient(nonsense, TOKEN)


class Breaking:
    """Breaks off its first answers, and does each key's request once; `done` are the keys."""

    def __init__(self, breaks: int) -> None:
        self.asked: list[tuple[str, str]] = []
        self.done: dict[str, str] = {}
        self._breaks = breaks

    async def answer(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key", "")
        self.asked.append((request.method, key))
        made = self.done.setdefault(key, f"made {len(self.done)}")
        if len(self.asked) <= self._breaks:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"name": made})


@asynccontextmanager
async def breaking(breaks: int) -> AsyncIterator[tuple[Breaking, AdminClient]]:
    gateway, app = Breaking(breaks), web.Application()
    app.router.add_route("*", "/admin/{path:.*}", gateway.answer)
    server = TestServer(app)
    await server.start_server()
    try:
        yield gateway, AdminClient(str(server.make_url("/")), TOKEN, timeout_s=5)
    finally:
        await server.close()


async def test_an_answer_that_was_lost_is_asked_for_again_and_done_once() -> None:
    async with breaking(2) as (gateway, client):
        made = await asyncio.to_thread(client.roll_back_model, {"name": "m"})
    assert made["name"] == "made 0"
    assert len(gateway.done) == 1
    [(method, key)] = set(gateway.asked)
    assert method == "POST"
    assert len(gateway.asked) == 3
    async with breaking(0) as (gateway, client):
        await asyncio.to_thread(client.create_org, {"name": "a"}, idempotency_key="mine")
        await asyncio.to_thread(client.create_org, {"name": "a"})
    assert gateway.asked[0][1] == "mine"
    assert gateway.asked[1][1] not in ("", "mine", key)


async def test_what_may_have_been_done_is_said_where_no_answer_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_PAUSES_S", (0.01,) * 4)
    async with breaking(99) as (gateway, client):
        with pytest.raises(UnreachableError, match="may have been done"):
            await asyncio.to_thread(client.create_org, {"name": "a"})
        assert len(gateway.asked) == 5
        with pytest.raises(UnreachableError) as only_read:
            await asyncio.to_thread(client.me)
        assert "done" not in str(only_read.value)
        before = len(gateway.asked)
        assert before == 5 + 3
        # A change without a key is for the operator to repeat.
        with pytest.raises(UnreachableError, match="may have been done"):
            await asyncio.to_thread(client.revoke_key, "k")
        assert len(gateway.asked) == before + 1
    for nowhere, reason in (("http://127.0.0.1:1", "refused"), ("http://no.such.host.invalid", "does not answer")):
        with pytest.raises(UnreachableError, match=reason) as nothing_sent:
            await asyncio.to_thread(AdminClient(nowhere, TOKEN).create_org, {"name": "a"})
        assert "done" not in str(nothing_sent.value)

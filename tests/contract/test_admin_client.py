"""The typed client that `make admin-client` writes: a method for each operation, types that hold, and it works."""

import asyncio
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp.test_utils import TestServer

from crosslogic_gateway.openapi import build_document
from scripts import admin_client
from tests.fakes.admin_neighbours import TOKEN, Neighbours


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("client") / "crosslogic_admin.py"
    written.write_text(admin_client.source(build_document("0.1.0")))
    return written


@pytest.fixture(scope="module")
def client(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("crosslogic_admin", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_operation_has_a_method_and_every_parameter_an_argument(client: ModuleType) -> None:
    for path, item in build_document("0.1.0")["paths"].items():
        for operation in item.values() if path.startswith("/admin") else ():
            method = getattr(client.AdminClient, admin_client.method_name(operation["operationId"]))
            arguments = set(inspect.signature(method).parameters) - {"self", "body", "idempotency_key"}
            wanted = {
                admin_client.argument_name(each["name"])
                for each in operation.get("parameters", ())
                if each["in"] in ("path", "query")
            }
            assert arguments == wanted, operation["operationId"]


def test_types_hold_under_a_strict_checker_and_find_a_wrong_use(file: Path) -> None:
    use = file.with_name("use.py")
    use.write_text(
        "from crosslogic_admin import AdminClient\n"
        "client = AdminClient('http://127.0.0.1:1', 'token')\n"
        "name: str = client.list_orgs(page_size=3)['data'][0]['name']\n"
        "client.create_org({'nam': 'x'})\n"
        "client.list_orgs(pagesize=3)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(file.parent / "cache")]
    checked = subprocess.run(
        [*command, str(file), str(use)],
        capture_output=True,
        text=True,
        check=False,
        cwd=file.parent,
        env={**os.environ, "MYPYPATH": str(file.parent)},
    )
    errors = [line.partition(": error:")[0] for line in checked.stdout.splitlines() if ": error:" in line]
    assert sorted(set(errors)) == ["use.py:4", "use.py:5"], checked.stdout + checked.stderr


async def test_it_speaks_to_the_admin_api(client: ModuleType) -> None:
    server = TestServer(Neighbours().app())
    await server.start_server()
    try:
        url = str(server.make_url("/"))
        good, wrong = client.AdminClient(url, TOKEN), client.AdminClient(url, "wrong")
        made = await asyncio.to_thread(good.create_org, {"name": "Acme"}, idempotency_key="once")
        listed = await asyncio.to_thread(good.list_orgs, page_size=5)
        with pytest.raises(client.AdminError) as refused:
            await asyncio.to_thread(wrong.list_orgs)
        with pytest.raises(client.AdminError) as missing:
            await asyncio.to_thread(good.get_org, "../plans")
    finally:
        await server.close()
    assert made["id"]
    assert isinstance(listed["data"], list)
    assert refused.value.status == 401
    assert missing.value.status in (400, 404)

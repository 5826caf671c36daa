"""What the commands about model upgrades ask of the gateway."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from crosslogic_cli.failure import CliError
from crosslogic_cli.main import app

UPGRADE = {"id": "u", "from_version": "v1", "to_version": "v2", "phase": "waiting", "percent": 0, "reason": "started"}


@dataclass
class Gateway:
    """Answers every call with an upgrade and remembers what was asked."""

    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    found = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"data": [UPGRADE], "next_page_token": None} if "models" in self.path else UPGRADE, None)

        def do_POST(self) -> None:
            self._answer(UPGRADE, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: object, sent: object) -> None:
            found.asked.append((self.command, self.path.partition("?")[0], sent))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("CROSSLOGIC_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("CROSSLOGIC_ADMIN_TOKEN", "t")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield found
        server.shutdown()
        thread.join()


def run(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["--json", *arguments])
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)


def test_an_upgrade_is_started_with_the_rules_that_were_given_and_the_usual_ones(gateway: Gateway) -> None:
    assert (
        run("models", "upgrade", "llama", "--to", "v2", "--from", "", "--steps", "10, 100", "--step-s", "60") == UPGRADE
    )
    [(method, path, body)] = gateway.asked
    assert (method, path) == ("POST", "/admin/models/llama/upgrades")
    assert (body["to_version"], body["from_version"]) == ("v2", "")
    assert (body["rules"]["steps_percent"], body["rules"]["step_s"], body["rules"]["lost_s"]) == ([10, 100], 60, 30)


def test_the_version_that_serves_is_left_to_the_registry_unless_it_is_named(gateway: Gateway) -> None:
    run("models", "upgrade", "llama", "--to", "v2")
    assert "from_version" not in gateway.asked[0][2]


def test_upgrades_are_listed_shown_and_taken_back(gateway: Gateway) -> None:
    assert run("models", "upgrades", "llama") == [UPGRADE]
    assert run("models", "upgrade-status", "u") == UPGRADE
    assert run("--yes", "models", "roll-back", "u", "--reason", "no good") == UPGRADE
    assert gateway.asked == [
        ("GET", "/admin/models/llama/upgrades", None),
        ("GET", "/admin/upgrades/u", None),
        ("POST", "/admin/upgrades/u/roll-back", {"reason": "no good"}),
    ]


def test_nothing_is_taken_back_when_nobody_can_be_asked(gateway: Gateway) -> None:
    with pytest.raises(CliError):
        run("models", "roll-back", "u")
    assert gateway.asked == []


def test_steps_that_are_no_percentages_are_refused_here(gateway: Gateway) -> None:
    with pytest.raises(CliError):
        run("models", "upgrade", "llama", "--to", "v2", "--steps", "5%,all")
    assert gateway.asked == []

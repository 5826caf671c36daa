"""Logs: one JSON object a line, with the request's id, and no customer's key in any of them."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from crosslogic_common.logs import configure_logging, get_logger

KEY = "clsk_live_0123456789abcdef0123456789abcdef"
SECRETS = [
    KEY,
    f"Bearer {KEY}",
    f"no such key: {KEY}!",
    f"Authorization: {KEY}",
    "Authorization: Basic dXNlcjpodW50ZXIy",
    "authorization=hunter2",
    "{'x-admin-token': 'hunter2'}",
    "(b'X-Admin-Token', b'hunter2')",
    "cljt_hunter2hunter2",
    "postgresql://app:hunter2@10.0.0.1/db",
    "redis://:hunter2@10.0.0.1:6379/0",
]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail(error: Exception) -> None:
    raise error


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_event_is_one_line_that_says_who_when_and_for_which_request(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("identity")
    with structlog.contextvars.bound_contextvars(request_id="req-1"):
        get_logger("store").info("two\nlines", count=3)
    get_logger("store").info("after")
    first, second = lines(capsys)
    assert first["event"] == "two\nlines"
    assert (first["service"], first["logger"], first["level"], first["count"]) == ("identity", "store", "info", 3)
    assert first["request_id"] == "req-1"
    assert first["timestamp"].endswith("Z")
    assert "request_id" not in second


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_written_wherever_it_stands(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("gateway")
    log = get_logger("x")
    log.info(secret)
    log.info("fact", fact=secret, deep={"list": [secret, {"tuple": (secret,)}]}, raw=secret.encode())
    log.info("named", authorization=secret, headers={"Authorization": "hunter2"})
    try:
        fail(ValueError(secret))
    except ValueError as error:
        log.exception("failed", problem=error)
    logging.getLogger("aiohttp").warning("saw %s", secret)
    try:
        fail(ValueError(secret))
    except ValueError:
        logging.getLogger("aiohttp").exception("failed")
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 6
    assert "0123456789abcdef" not in written
    assert "hunter2" not in written
    assert "dXNlcjpodW50ZXIy" not in written
    assert all(json.loads(line) for line in written.splitlines())


def test_what_is_no_secret_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("gateway")
    facts = {"path": "/v1/models", "tokens": 12, "ok": True, "none": None, "list": [1, "two"], "map": {"a": 1.5}}
    get_logger("x").info("basic facts of a bearer of news", **facts)
    (entry,) = lines(capsys)
    assert entry["event"] == "basic facts of a bearer of news"
    assert {name: entry[name] for name in facts} == facts


def test_level_is_heeded_by_ours_and_by_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("gateway", "WARNING")
    get_logger("x").info("quiet")
    logging.getLogger("asyncio").info("quiet")
    get_logger("x").warning("loud")
    assert [entry["event"] for entry in lines(capsys)] == ["loud"]


def test_traceback_is_inside_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("gateway")
    try:
        fail(RuntimeError("broken"))
    except RuntimeError as error:
        get_logger("x").error("rpc failed", exc_info=error)
    (entry,) = lines(capsys)
    assert "RuntimeError: broken" in entry["exception"]
    assert "Traceback" in entry["exception"]

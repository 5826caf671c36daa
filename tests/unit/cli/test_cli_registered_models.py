"""Models by environment, by the command line, against the admin API itself."""

import json

import pytest

from crosslogic.registry.v1 import model_store_pb2 as pb
from crosslogic_cli.failure import CliError, ExitCode
from tests.fakes.admin_model_store import NOW
from tests.fakes.admin_neighbours import Neighbours
from tests.fakes.command_line import CommandLine


@pytest.fixture
def neighbours() -> Neighbours:
    found = Neighbours()
    for name, environment in (
        ("llama", pb.MODEL_ENVIRONMENT_PRODUCTION),
        ("llama@staging", pb.MODEL_ENVIRONMENT_STAGING),
    ):
        found.model_store.models[name] = pb.RegisteredModel(
            name=name, model="llama", environment=environment, version="0" * 32, enabled=True, change_time=NOW
        )
    return found


async def test_models_are_listed_by_environment(line: CommandLine) -> None:
    rows = json.loads(await line.run("--json", "models", "registered"))
    assert [(row["name"], row["environment"]) for row in rows] == [
        ("llama", "production"),
        ("llama@staging", "staging"),
    ]
    assert "llama@staging" in await line.run("models", "registered")
    assert json.loads(await line.run("--json", "models", "show", "llama@staging"))["environment"] == "staging"


async def test_a_model_is_offered_and_no_longer(line: CommandLine, neighbours: Neighbours) -> None:
    for command, offered in (("disable", {"llama@staging"}), ("enable", {"llama", "llama@staging"})):
        await line.run("models", command, "llama")
        assert {name for name, model in neighbours.model_store.models.items() if model.enabled} == offered


async def test_a_model_is_not_taken_away_when_nobody_can_be_asked(line: CommandLine, neighbours: Neighbours) -> None:
    assert isinstance(await line.run("models", "deregister", "llama", fails=True), CliError)
    assert "llama" in neighbours.model_store.models
    await line.run("--yes", "models", "deregister", "llama")
    assert neighbours.model_store.models.keys() == {"llama@staging"}


async def test_a_model_that_is_not_there_has_its_own_exit_code(line: CommandLine) -> None:
    for command in ("show", "enable", "disable", "rollback"):
        error = await line.run("models", command, "none", fails=True)
        assert isinstance(error, CliError)
        assert error.code == ExitCode.NOT_FOUND, command


async def test_a_promotion_asks_for_what_was_written_and_shows_its_gates(
    line: CommandLine, neighbours: Neighbours
) -> None:
    shown = await line.run("models", "promote", "llama", "--from", "development", "--to", "staging", "--dry-run")
    asked = neighbours.model_store.asked[-1]
    assert (asked.from_environment, asked.to_environment) == (
        pb.MODEL_ENVIRONMENT_DEVELOPMENT,
        pb.MODEL_ENVIRONMENT_STAGING,
    )
    assert asked.dry_run
    assert shown.splitlines()[-1].split() == ["licence", "yes", "mit"]
    await line.run("models", "promote", "llama")
    asked = neighbours.model_store.asked[-1]
    assert (asked.from_environment, asked.to_environment, asked.dry_run) == (
        pb.MODEL_ENVIRONMENT_STAGING,
        pb.MODEL_ENVIRONMENT_PRODUCTION,
        False,
    )

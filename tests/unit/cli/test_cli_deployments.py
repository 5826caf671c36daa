"""Deployments by the command line, against the admin API itself."""

import json

from crosslogic.orchestrator.v1 import deployments_pb2 as pb
from crosslogic_cli.failure import CliError, ExitCode
from tests.fakes.admin_deployments import DEPLOYMENT_ID
from tests.fakes.admin_neighbours import Neighbours
from tests.fakes.command_line import CommandLine


async def test_a_deployment_is_asked_for_as_it_was_written(line: CommandLine, neighbours: Neighbours) -> None:
    words = "--region us-east --min 1 --max 8 --spot-share 0.5 --max-usd 12.50 --dry-run --set warm_spares=2"
    made = json.loads(await line.run("--json", "deployments", "create", "llama", *words.split()))
    asked = neighbours.deployments.asked[-1].spec
    assert (asked.model, asked.region, asked.min_nodes, asked.max_nodes) == ("llama", "us-east", 1, 8)
    assert (asked.spot_share, asked.warm_spares, asked.mode) == (0.5, 2, pb.DEPLOYMENT_MODE_DRY_RUN)
    assert made["wishes"]["max_usd_per_hour"] == "12.5"


async def test_a_change_leaves_the_rest_and_does_not_overwrite_somebody_elses(
    line: CommandLine, neighbours: Neighbours
) -> None:
    await line.run("deployments", "create", "m", "--set", "warm_spares=3")
    await line.run("deployments", "update", DEPLOYMENT_ID, "--set", "max_nodes=8", "--set", "mode=paused")
    asked = neighbours.deployments.asked[-1]
    assert (asked.spec.max_nodes, asked.spec.warm_spares, asked.revision) == (8, 3, 1)
    assert (asked.deployment_id, asked.spec.mode) == (DEPLOYMENT_ID, pb.DEPLOYMENT_MODE_PAUSED)


async def test_wishes_that_cannot_be_are_told_and_nothing_is_changed(line: CommandLine, neighbours: Neighbours) -> None:
    await line.run("deployments", "create", "m")
    for wish, word in [("max_nodes", "name=value"), ("=8", "name=value"), ("max_nodes=many", "max_nodes")]:
        error = await line.run("deployments", "update", DEPLOYMENT_ID, "--set", wish, fails=True)
        assert isinstance(error, CliError)
        assert word in str(error)
    for wish in ("spot_share=nan", "spot_share=inf", "no_such_wish=1", "spot_share=2"):
        assert isinstance(
            await line.run("deployments", "update", DEPLOYMENT_ID, "--set", wish, fails=True), CliError
        ), wish
    assert not [each for each in neighbours.deployments.asked if isinstance(each, pb.UpdateDeploymentRequest)]


async def test_people_read_the_share_that_they_asked_for(line: CommandLine) -> None:
    made = await line.run("deployments", "create", "m", "--spot-share", "0.333", "--set", "target_utilisation=0.85")
    assert "target_utilisation=0.85" in made
    assert "spot_share=0.333" in made


async def test_a_deployment_that_is_not_there_has_its_own_exit_code(line: CommandLine) -> None:
    for command in (["update", "x", "--set", "max_nodes=2"], ["plan", "x"], ["explain", "x"]):
        error = await line.run("deployments", *command, fails=True)
        assert isinstance(error, CliError)
        assert error.code == ExitCode.NOT_FOUND, command


async def test_machines_are_not_ended_when_nobody_can_be_asked(line: CommandLine, neighbours: Neighbours) -> None:
    assert isinstance(await line.run("deployments", "delete", DEPLOYMENT_ID, fails=True), CliError)
    assert neighbours.deployments.asked == []
    await line.run("--yes", "deployments", "delete", DEPLOYMENT_ID)
    assert isinstance(neighbours.deployments.asked[-1], pb.DeleteDeploymentRequest)


async def test_people_see_what_would_be_done_and_why(line: CommandLine) -> None:
    planned = await line.run("deployments", "plan", DEPLOYMENT_ID)
    assert "1 machines are wanted, 0 are there" in planned
    assert "min: 1, `min_nodes` is 1" in planned
    assert "+ aws/us-east (spot): min: 1" in planned
    assert planned.splitlines()[-1].split()[:2] == ["aws", "us-east"]
    assert "+ aws/us-east (spot): min: 1" in await line.run("deployments", "explain", DEPLOYMENT_ID)
    listed = await line.run("deployments", "list")
    assert DEPLOYMENT_ID in listed
    assert (await line.run("--json", "deployments", "plan", DEPLOYMENT_ID)).startswith("{")

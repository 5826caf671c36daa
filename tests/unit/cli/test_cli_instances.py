"""Launches followed on the command line: whoever's launch failed reads why, in the machine's own words."""

import json

from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from tests.fakes.admin_neighbours import Neighbours
from tests.fakes.admin_orchestrator import CONFIGURED_ID, INSTANCE_ID, JOB_ID, job
from tests.fakes.command_line import CommandLine


async def test_a_launch_that_failed_shows_the_last_lines_of_its_log(line: CommandLine, neighbours: Neighbours) -> None:
    failed = job(1, 2, 3, status=pb.JOB_STATUS_FAILED)
    failed.error = "The node died before it served."
    failed.logs[0].text = "[red]CUDA out of memory[/red]"
    neighbours.orchestrator.known = failed
    error = await line.run("instances", "follow", JOB_ID, fails=True)
    assert str(error) == "The node died before it served."
    assert "[red]CUDA out of memory[/red]" in line.printed, "a machine's words were taken for markup"


async def test_a_machine_is_given_up_only_on_request_and_what_is_left_to_do_is_said(
    line: CommandLine, neighbours: Neighbours
) -> None:
    unasked = await line.run("instances", "terminate", INSTANCE_ID, "--abandon", fails=True)
    assert "nobody ends it at its provider" in str(unasked)
    assert neighbours.orchestrator.asked == []
    # Whoever asked for just that has it: the command has not failed.
    said = await line.run("--yes", "instances", "terminate", INSTANCE_ID, "--abandon")
    assert "[b]nobody has ended it[/b] at azure" in said, "words of others were taken for markup"
    assert neighbours.orchestrator.asked[-1].abandon
    assert json.loads(await line.run("--yes", "--json", "instances", "terminate", INSTANCE_ID, "--abandon"))["error"]
    refused = await line.run("--yes", "instances", "terminate", CONFIGURED_ID, "--abandon", fails=True)
    assert "without `abandon`" in str(refused)


async def test_an_end_asks_for_no_machine_to_be_given_up(line: CommandLine, neighbours: Neighbours) -> None:
    await line.run("--yes", "instances", "terminate", INSTANCE_ID, "--no-wait")
    assert not neighbours.orchestrator.asked[-1].abandon

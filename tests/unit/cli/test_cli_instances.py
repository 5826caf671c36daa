"""Launches followed on the command line: whoever's launch failed reads why, in the machine's own words."""

from crosslogic.orchestrator.v1 import orchestrator_pb2 as pb
from tests.fakes.admin_neighbours import Neighbours
from tests.fakes.admin_orchestrator import JOB_ID, job
from tests.fakes.command_line import CommandLine


async def test_a_launch_that_failed_shows_the_last_lines_of_its_log(line: CommandLine, neighbours: Neighbours) -> None:
    failed = job(1, 2, 3, status=pb.JOB_STATUS_FAILED)
    failed.error = "The node died before it served."
    failed.logs[0].text = "[red]CUDA out of memory[/red]"
    neighbours.orchestrator.known = failed
    error = await line.run("instances", "follow", JOB_ID, fails=True)
    assert str(error) == "The node died before it served."
    assert "[red]CUDA out of memory[/red]" in line.printed, "a machine's words were taken for markup"

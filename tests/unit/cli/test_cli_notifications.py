"""Notifications by the command line, against the admin API itself."""

import json

from crosslogic.orchestrator.v1 import notifications_pb2 as pb
from crosslogic_cli.failure import CliError, ExitCode
from tests.fakes.admin_neighbours import Neighbours
from tests.fakes.admin_notifications import NOTIFICATION_ID, SECRET
from tests.fakes.command_line import CommandLine

URL = "https://hooks.example.com/very-secret-path"


async def test_a_route_is_made_as_it_was_written_and_its_secret_is_shown_once(
    line: CommandLine, neighbours: Neighbours
) -> None:
    words = "--kind node_lost --kind launch_failed --from warning --quiet 22:00-07:00@Asia/Kolkata"
    made = json.loads(await line.run("--json", "notifications", "create", "pager", "webhook", URL, *words.split()))
    asked = neighbours.notifications.asked[0].spec
    assert (asked.target, list(asked.kinds)) == (URL, ["node_lost", "launch_failed"])
    assert (asked.min_severity, asked.channel) == (pb.NOTIFICATION_SEVERITY_WARNING, pb.NOTIFICATION_CHANNEL_WEBHOOK)
    quiet = asked.quiet_hours
    assert (quiet.start, quiet.end, quiet.time_zone) == ("22:00", "07:00", "Asia/Kolkata")
    assert made["secret"] == SECRET
    assert "secret" not in json.loads(await line.run("--json", "notifications", "routes"))[0]


async def test_dead_letters_are_listed_and_replayed(line: CommandLine, neighbours: Neighbours) -> None:
    (dead,) = json.loads(await line.run("--json", "notifications", "deliveries", "--state", "dead"))
    assert neighbours.notifications.asked[-1].state == pb.NOTIFICATION_STATE_DEAD
    await line.run("notifications", "replay", dead["id"])
    assert neighbours.notifications.asked[-1].delivery_id == NOTIFICATION_ID


async def test_a_test_that_was_not_taken_fails_the_command_and_says_why(line: CommandLine) -> None:
    error = await line.run("notifications", "test", NOTIFICATION_ID, fails=True)
    assert isinstance(error, CliError)
    assert str(error) == "The receiver answered 500."
    error = await line.run("notifications", "test", "none", fails=True)
    assert isinstance(error, CliError)
    assert error.code is ExitCode.NOT_FOUND


async def test_a_route_is_muted_gets_a_new_secret_and_ends_only_when_that_is_meant(
    line: CommandLine, neighbours: Neighbours
) -> None:
    await line.run("notifications", "disable", NOTIFICATION_ID)
    assert neighbours.notifications.asked[-1].spec.disabled
    await line.run("notifications", "enable", NOTIFICATION_ID)
    assert not neighbours.notifications.asked[-1].spec.disabled
    rotated = json.loads(await line.run("--json", "notifications", "rotate-secret", NOTIFICATION_ID))
    assert rotated["secret"] == SECRET
    assert isinstance(await line.run("notifications", "delete", NOTIFICATION_ID, fails=True), CliError)
    await line.run("--yes", "notifications", "delete", NOTIFICATION_ID)
    asked = [type(each) for each in neighbours.notifications.asked]
    assert asked.count(pb.DeleteNotificationRouteRequest) == 1


async def test_quiet_hours_that_are_none_are_told_before_anything_is_asked(
    line: CommandLine, neighbours: Neighbours
) -> None:
    error = await line.run("notifications", "create", "p", "slack", URL, "--quiet", "night", fails=True)
    assert isinstance(error, CliError)
    assert error.code is ExitCode.USAGE
    assert neighbours.notifications.asked == []

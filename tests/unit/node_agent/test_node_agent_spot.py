"""Notices that a cloud takes the machine, by each cloud's own interface."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from crosslogic_common.clock import SystemClock
from crosslogic_node_agent.spot.aws import AwsSpot
from crosslogic_node_agent.spot.azure import AzureSpot
from crosslogic_node_agent.spot.gcp import GcpSpot
from crosslogic_node_agent.spot.local import FileSpot, SignalSpot
from crosslogic_node_agent.spot.metadata import MetadataClient
from crosslogic_node_agent.spot.notice import UNREADABLE, MetadataError, NoticeKind, SpotNotice, SpotSource
from crosslogic_node_agent.spot.watch import SpotWatch, gravest_of
from tests.fakes.node_agent_clouds import Cloud, FakeAws, FakeAzure, FakeGcp

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
RISK, TERMINATION = NoticeKind.RISK, NoticeKind.TERMINATION


def source_of(cloud: Cloud) -> SpotSource:
    client = MetadataClient(cloud.url)
    if isinstance(cloud, FakeAws):
        return AwsSpot(client)
    return GcpSpot(client, wait_s=1) if isinstance(cloud, FakeGcp) else AzureSpot(client)


async def look(source: SpotSource) -> SpotNotice | None:
    return await asyncio.wait_for(source.look(datetime.now(UTC)), 20)


async def seen(source: SpotSource) -> SpotNotice:
    notice = await look(source)
    assert notice is not None
    return notice


@contextlib.asynccontextmanager
async def every_cloud() -> AsyncIterator[list[Cloud]]:
    clouds: list[Cloud] = [FakeAws(), FakeGcp(), FakeAzure()]
    async with contextlib.AsyncExitStack() as stack:
        for cloud in clouds:
            await stack.enter_async_context(cloud.serving())
        yield clouds


async def test_aws_interruption_is_read_with_a_token_and_its_deadline() -> None:
    aws = FakeAws()
    async with aws.serving():
        source = source_of(aws)
        assert await look(source) is None
        aws.interrupt(in_s=120)
        notice = await seen(source)
        assert (notice.kind, notice.source, notice.action) == (TERMINATION, "aws", "terminate")
        assert notice.deadline_at is not None
        assert 110 < (notice.deadline_at - datetime.now(UTC)).total_seconds() <= 120
    assert aws.asked[0] == ("PUT", "/latest/api/token")
    assert len(aws.tokens) == 1, "a token is asked for once"


async def test_aws_token_that_ended_is_asked_for_again() -> None:
    aws = FakeAws()
    async with aws.serving():
        source = source_of(aws)
        await look(source)
        aws.tokens = {"another"}
        assert await look(source) is None
        aws.interrupt("stop")
        assert (await seen(source)).action == "stop"


async def test_aws_rebalance_recommendation_is_a_hint_and_no_drain() -> None:
    aws = FakeAws(rebalance=True)
    async with aws.serving():
        source = source_of(aws)
        assert (await seen(source)).kind is RISK
        aws.rebalance = False
        assert await look(source) is None


async def test_aws_hibernation_leaves_no_time() -> None:
    aws = FakeAws()
    async with aws.serving():
        aws.interrupt("hibernate", in_s=120)
        notice = await seen(source_of(aws))
        assert notice.window_s(datetime.now(UTC), handover_s=5) == 0.0


@pytest.mark.parametrize("body", [{}, {"action": "dance"}, {"action": None}, {"time": "x"}, [], "text"], ids=repr)
async def test_aws_notice_that_cannot_be_read_still_keeps_new_requests_away(body: object) -> None:
    aws = FakeAws()
    async with aws.serving():
        aws.action = body  # type: ignore[assignment]
        assert ((notice := await seen(source_of(aws))).kind, notice.action) == (RISK, UNREADABLE)


@pytest.mark.parametrize("time", ["", "soon", "0000-99-99", "2017-09-18T08:22:00Z", "9999-12-31T23:59:59Z", 7, None])
async def test_aws_deadline_of_any_kind_gives_a_window_that_can_be_worked_with(time: object) -> None:
    aws = FakeAws(action={"action": "terminate", "time": time})  # type: ignore[dict-item]
    async with aws.serving():
        notice = await seen(source_of(aws))
        assert notice.kind is TERMINATION
        assert 0 <= notice.window_s(datetime.now(UTC), handover_s=5) <= 120


async def test_gcp_preemption_is_told_while_the_question_is_held_open() -> None:
    gcp = FakeGcp()
    async with gcp.serving():
        source = source_of(gcp)
        assert await look(source) is None
        waiting = asyncio.create_task(look(source))
        while len(gcp.asked) < 2:
            await asyncio.sleep(0.01)
        gcp.change("TRUE")
        notice = await waiting
        assert notice is not None
        assert (notice.kind, notice.source) == (TERMINATION, "gcp")
        assert 0 < notice.window_s(datetime.now(UTC), handover_s=5) <= 25
    assert gcp.asked[0] == ("GET", "/computeMetadata/v1/instance/preempted")
    assert gcp.asked[1][1].startswith("/computeMetadata/v1/instance/preempted?wait_for_change=true")


async def test_gcp_preemption_between_two_questions_is_not_missed() -> None:
    gcp = FakeGcp()
    async with gcp.serving():
        source = source_of(gcp)
        assert await look(source) is None
        gcp.change("TRUE")
        assert (await seen(source)).kind is TERMINATION


async def test_gcp_that_has_nothing_to_say_answers_in_the_end() -> None:
    gcp = FakeGcp()
    async with gcp.serving():
        source = source_of(gcp)
        assert await look(source) is None
        assert await look(source) is None


async def test_gcp_answer_without_googles_header_is_some_other_servers() -> None:
    gcp = FakeGcp(misbehave=lambda _request: web.Response(text="TRUE"))
    async with gcp.serving():
        with pytest.raises(MetadataError):
            await look(source_of(gcp))


async def test_gcp_answer_that_cannot_be_read_keeps_new_requests_away() -> None:
    gcp = FakeGcp(value="MAYBE")
    async with gcp.serving():
        assert (await seen(source_of(gcp))).kind is RISK


async def test_azure_preemption_of_this_machine_is_acknowledged_when_the_node_has_left() -> None:
    azure = FakeAzure()
    async with azure.serving():
        source = source_of(azure)
        assert await look(source) is None
        event_id = azure.schedule()
        notice = await seen(source)
        assert (notice.kind, notice.source, notice.action) == (TERMINATION, "azure", "Preempt")
        assert 0 < notice.window_s(datetime.now(UTC), handover_s=5) <= 25
        assert azure.started == [], "Azure would take the machine at once"
        await source.acknowledge()
        assert azure.started == [event_id]


async def test_azure_events_of_other_machines_and_of_other_kinds_take_nothing_away() -> None:
    azure = FakeAzure()
    async with azure.serving():
        source = source_of(azure)
        azure.schedule(resources=["gpu-vm_4", "gpu-vm_30"])
        azure.schedule("Freeze")
        azure.schedule("Reboot")
        assert await look(source) is None
        await source.acknowledge()
        assert azure.started == []


async def test_azure_event_that_has_started_leaves_no_time() -> None:
    azure = FakeAzure()
    async with azure.serving():
        azure.schedule()
        azure.events[0] |= {"EventStatus": "Started", "NotBefore": ""}
        assert (await seen(source_of(azure))).window_s(datetime.now(UTC), handover_s=5) == 0.0


@pytest.mark.parametrize(
    "events",
    [
        [
            None,
            7,
            "x",
            {},
            {"EventType": "Preempt"},
            {"EventType": "Preempt", "EventStatus": "Scheduled", "Resources": 3},
        ],
        [],
    ],
)
async def test_azure_events_without_what_they_should_have_are_passed_over(events: list[object]) -> None:
    azure = FakeAzure(events=events)  # type: ignore[arg-type]
    async with azure.serving():
        assert await look(source_of(azure)) is None


async def test_azure_event_with_a_broken_time_and_no_id_is_a_notice_all_the_same() -> None:
    azure = FakeAzure()
    async with azure.serving():
        azure.schedule()
        azure.events[0] |= {"NotBefore": "whenever", "EventId": 9}
        source = source_of(azure)
        assert (await seen(source)).kind is TERMINATION
        await source.acknowledge()
        assert azure.started == []


async def test_azure_document_that_cannot_be_read_keeps_new_requests_away() -> None:
    azure = FakeAzure()

    def garbage(request: web.Request) -> web.Response | None:
        return web.Response(text="<html>") if "scheduledevents" in request.path else None

    azure.misbehave = garbage
    async with azure.serving():
        assert (await seen(source_of(azure))).kind is RISK


@pytest.mark.parametrize(
    "answer",
    [
        lambda _request: web.Response(status=500),
        lambda _request: web.Response(status=403),
        lambda _request: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        lambda _request: web.Response(body=b"x" * 400_000),
    ],
    ids=["500", "403", "redirect", "huge"],
)
async def test_sick_metadata_service_is_no_notice_and_no_crash(
    answer: Callable[[web.Request], web.StreamResponse],
) -> None:
    async with every_cloud() as clouds:
        for cloud in clouds:
            cloud.misbehave = answer
            with pytest.raises(MetadataError):
                await look(source_of(cloud))


async def test_metadata_service_that_hangs_is_left_after_its_time() -> None:
    async with every_cloud() as clouds:
        for cloud in clouds:
            cloud.hang = True
            with pytest.raises(MetadataError, match="no answer"):
                await MetadataClient(cloud.url).ask("GET", "/", headers={}, timeout_s=0.1)


async def test_metadata_service_that_is_not_there_or_speaks_no_http_is_an_error_of_its_own() -> None:
    async def nonsense(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp ready\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(MetadataError):
            await MetadataClient(f"http://127.0.0.1:{port}").ask("GET", "/", headers={})
    with pytest.raises(MetadataError):
        await MetadataClient(f"http://127.0.0.1:{port}").ask("GET", "/", headers={})


async def test_file_that_appears_is_a_notice_whatever_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "notice"
    source = FileSpot(file)
    assert await source.look(NOW) is None
    for text in ("", "{}", "garbage", "[1]", '{"action": 7}', "\x00\xff"):
        file.write_text(text)
        notice = await source.look(NOW)
        assert notice is not None
        assert notice.kind is TERMINATION
        assert notice.deadline_at == NOW + timedelta(seconds=30)
    file.write_text('{"action": "terminate", "time": "2026-11-21T09:00:45Z"}')
    notice = await source.look(NOW)
    assert notice is not None
    assert notice.window_s(NOW, handover_s=5) == 40.0
    file.write_text('{"action": "rebalance"}')
    notice = await source.look(NOW)
    assert notice is not None
    assert notice.kind is RISK


async def test_signal_is_a_notice() -> None:
    source = SignalSpot()
    waiting = asyncio.create_task(source.look(NOW))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGUSR1)
    notice = await asyncio.wait_for(waiting, 10)
    assert notice is not None
    assert (notice.kind, notice.source) == (TERMINATION, "signal")
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)


class ToldSource:
    """Says what it is told to, or raises it."""

    pause_s = 0.001

    def __init__(self, *says: SpotNotice | Exception | None) -> None:
        self._says = list(says)
        self.acknowledged = 0

    async def look(self, now: datetime) -> SpotNotice | None:
        says = self._says.pop(0) if len(self._says) > 1 else self._says[0]
        if isinstance(says, Exception):
            raise says
        return says

    async def acknowledge(self) -> None:
        self.acknowledged += 1


def notice(kind: NoticeKind = TERMINATION, source: str = "aws", **more: datetime) -> SpotNotice:
    return SpotNotice(kind, source, "terminate", NOW, more.get("deadline_at"))


async def test_notice_is_told_once_also_after_a_service_that_fails_and_one_that_crashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("crosslogic_node_agent.spot.watch.RETRY_S", 0.001)
    told: list[SpotNotice | None] = []
    found = asyncio.Event()

    def on_change(what: SpotNotice | None) -> None:
        told.append(what)
        if what is not None and what.kind is TERMINATION:
            found.set()

    source = ToldSource(MetadataError("away"), ValueError("a bug"), None, notice(RISK), notice(RISK), None, notice())
    watch = SpotWatch(sources={"aws": source}, clock=SystemClock(), on_change=on_change)
    async with watch.running():
        await asyncio.wait_for(found.wait(), 10)
    assert told == [notice(RISK), None, notice()]
    await watch.acknowledge()
    assert source.acknowledged == 1


def test_the_end_that_comes_first_counts_and_any_end_more_than_a_risk() -> None:
    late = notice(deadline_at=NOW + timedelta(seconds=120))
    soon = notice(source="gcp", deadline_at=NOW + timedelta(seconds=30))
    assert gravest_of([late, soon, notice(RISK)]) == soon
    assert gravest_of([notice(RISK)]) == notice(RISK)
    assert gravest_of([]) is None

"""SkyPilot's own API server and our worker in its environment, with a fake of one cloud's API: no step is imitated.

What is not seen here is what needs a machine that answers: the agent's installation over SSH, and its run.
"""

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio

from crosslogic_common.regions import RegionTable
from crosslogic_orchestrator.domain import Machine, Spec
from crosslogic_orchestrator.ports import ProviderError
from crosslogic_orchestrator.providers.skypilot import SkyPilotProvider, SkyPilotSettings
from crosslogic_orchestrator.providers.skypilot_link import WorkerLink
from tests.fakes.skypilot_world import TWO_PLACES, WAIT_S, SkyPilotWorld

# One worker for both: SkyPilot takes seconds to import.
pytestmark = pytest.mark.asyncio(loop_scope="module")
Answer = TypeVar("Answer")
TOKEN = "cljt_a-token-that-nobody-may-read"


@pytest.fixture(scope="module")
def world() -> Iterator[SkyPilotWorld]:
    with tempfile.TemporaryDirectory(prefix="cl-sky-", ignore_cleanup_errors=True) as folder:
        world = SkyPilotWorld(Path(folder))
        try:
            world.start()
            yield world
        finally:
            world.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(world: SkyPilotWorld) -> AsyncIterator[SkyPilotProvider]:
    settings = SkyPilotSettings(
        installation="test",
        clouds=("aws",),
        regions=RegionTable.parse(TWO_PLACES),
        accelerators="A10G:1",
        setup="echo nothing to install",
    )
    environ = {**world.environ, "SKYPILOT_API_SERVER_ENDPOINT": world.api, "SKYPILOT_DISABLE_LOCAL_API_SERVER": "1"}
    link = WorkerLink([str(world.python), "-m", "crosslogic_skypilot_worker"], environ, answer_s=WAIT_S)
    async with link.running():
        yield SkyPilotProvider("aws", settings, ask=link.ask)


async def patiently(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """As the orchestrator's worker does it: what may pass by itself is tried again. On a loaded machine some does."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await call()
            except ProviderError as error:
                if not error.temporary:
                    raise
                await asyncio.sleep(0.2)


async def test_operators_get_skypilots_own_words_for_what_it_refuses(provider: SkyPilotProvider) -> None:
    for asked, words in (
        ("A10G:64", "does not contain any instances"),
        ("p99.nano", "No instance type p99.nano found"),
    ):
        spec = Spec(model="m", provider="aws", region="us", instance_type=asked)
        with pytest.raises(ProviderError, match=words) as refused:
            await patiently(lambda: provider.task_for(spec, "one"))  # noqa: B023  # asked at once
        assert not refused.value.temporary


async def test_spot_is_tried_first_and_what_is_launched_once_is_found_listed_and_ended(
    world: SkyPilotWorld, provider: SkyPilotProvider
) -> None:
    spec = Spec(model="m", provider="aws", region="us,us-east", use_spot=True)
    task = await patiently(lambda: provider.task_for(spec, "one"))
    assert task.startswith("# Expected: aws us-west-2 g5.xlarge spot, $0.4000 an hour\n")

    def launch() -> Awaitable[None]:
        return patiently(lambda: provider.launch(name="one", task=task, join_token=TOKEN))

    async def found() -> Machine:
        return await patiently(lambda: provider.find("one"))

    await asyncio.gather(launch(), launch())

    async with asyncio.timeout(WAIT_S):
        while not (there := await asyncio.to_thread(world.instances)):
            assert (await found()).state == "pending", await found()
            await asyncio.sleep(0.2)
    # The cheapest place could not give one, and the next, which has no spot, did.
    (machine,) = there
    assert (machine["region"], machine["kind"], machine["state"]) == ("us-east-1", "on demand", "running")
    tags = machine["tags"]
    assert isinstance(tags, dict)
    assert (tags["crosslogic-installation"], tags["crosslogic-machine"]) == ("test", "one")
    assert [each.name for each in await patiently(provider.machines)] == ["one"]
    assert (await found()).hourly_price_picodollars == 1_006 * 10**9
    assert places_of_the_secret(world) == []
    assert ".aws/credentials" not in asked_for_the_machine(world), "whoever holds a machine would hold the account"
    assert await asyncio.to_thread(world.rights_of_machines) == []

    # Its server forgets what it was at. Whoever asks again has it go on with the same machine.
    await asyncio.to_thread(world.restart_server)
    assert (await found()).state == "stalled"
    assert [each.name for each in await patiently(provider.machines)] == ["one"], "the sweep must find it"
    await launch()
    assert (await found()).state == "pending"

    async with asyncio.timeout(WAIT_S):
        while (await found()).state != "gone":
            await patiently(lambda: provider.delete("one"))
            await asyncio.sleep(0.2)
    assert [each["state"] for each in await asyncio.to_thread(world.instances)] == ["terminated"]
    await launch()
    assert (await found()).state == "gone", "a launch that came late brought it back"
    assert await patiently(provider.machines) == []
    assert any(each.startswith("Cluster was terminated") for each in events(world)), (
        "by these words a restarted server tells what was ended from what it forgot"
    )


def places_of_the_secret(world: SkyPilotWorld) -> list[str]:
    """Files, and arguments of processes, in which the token can be read."""
    secret = TOKEN.encode()
    files = [file for file in (*world.home.rglob("*"), world.log) if file.is_file() and not file.is_symlink()]
    found = [str(file) for file in files if secret in read(file)]
    return found + [str(file) for file in Path("/proc").glob("[0-9]*/cmdline") if secret in read(file)]


def asked_for_the_machine(world: SkyPilotWorld) -> str:
    """What SkyPilot lays on the machine and does there, in its own words."""
    with contextlib.closing(sqlite3.connect(world.home / ".sky/state.db")) as known:
        ((text,),) = known.execute("SELECT yaml FROM cluster_yaml").fetchall()
    assert "setup_commands" in text
    return str(text)


def events(world: SkyPilotWorld) -> list[str]:
    """What SkyPilot notes of clusters for good, as its history of them tells."""
    with contextlib.closing(sqlite3.connect(world.home / ".sky/state.db")) as known:
        return [str(row[0]) for row in known.execute("SELECT reason FROM cluster_events")]


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""

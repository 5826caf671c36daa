"""Machines that are processes here: what is seen of an agent that does not come up."""

import asyncio
import fcntl
import os
from collections import Counter
from pathlib import Path

import pytest

from crosslogic_dev.ports import free_port
from crosslogic_orchestrator.ports import ProviderError
from crosslogic_orchestrator.providers import local_start
from crosslogic_orchestrator.providers.local import LocalProvider, LocalSettings

TASK = '{"model": "x", "region": "local"}'


async def test_an_agent_that_dies_at_its_start_is_told_of_at_once_and_with_its_last_words(tmp_path: Path) -> None:
    # Python itself does not start: its library is not there.
    settings = LocalSettings(folder=tmp_path, agent_environ={"PYTHONHOME": str(tmp_path / "nowhere")})
    provider = LocalProvider(settings, free_port=free_port)
    async with asyncio.timeout(15):
        with pytest.raises(ProviderError, match=r"The agent did not start: .+") as refused:
            await provider.launch(name="m", task=TASK, join_token="t")
    assert refused.value.temporary
    assert (await provider.find("m")).state == "absent"
    assert await provider.machines() == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"event": "engine ended", "reason": "out of memory", "level": "error"}', "engine ended reason=out of memory"),
        ("Illegal instruction", "Illegal instruction"),
        ("[1]", "[1]"),
        ("", "it said nothing"),
    ],
)
async def test_of_an_agent_that_is_gone_is_told_what_it_said_last_in_words(
    tmp_path: Path, line: str, words: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/pid").write_text("2147483646 1")
    (tmp_path / "m/agent.log").write_text(f"earlier\n{line}\n" if line else "")
    found = await LocalProvider(LocalSettings(folder=tmp_path, agent_environ={}), free_port=free_port).find("m")
    assert (found.state, found.detail) == ("gone", f"its agent ended, and had said last: {words}")


async def test_machines_that_have_not_bound_their_ports_yet_are_given_no_others(tmp_path: Path) -> None:
    settings = LocalSettings(folder=tmp_path, agent_environ={"PYTHONHOME": str(tmp_path / "nowhere")})
    # Nobody listens on any of them, and chance names some twice.
    drawn = iter([7001, 7001, 7002, 7002, 7001, 7003, 7004])
    provider = LocalProvider(settings, free_port=lambda: next(drawn))
    for name in ("one", "other"):
        with pytest.raises(ProviderError):
            await provider.launch(name=name, task=TASK, join_token="t")
    assert (tmp_path / "one/ports").read_text() == "7001 7002"
    assert (tmp_path / "other/ports").read_text() == "7003 7004"


async def test_two_orchestrators_over_one_folder_make_no_more_machines_than_are_allowed(tmp_path: Path) -> None:
    environ = {"PYTHONHOME": str(tmp_path / "nowhere")}
    settings = LocalSettings(folder=tmp_path / "machines", agent_environ=environ, max_machines=3)
    replicas = [LocalProvider(settings, free_port=free_port) for _ in range(2)]
    answers = await asyncio.gather(
        *(replicas[number % 2].launch(name=f"m{number}", task=TASK, join_token="t") for number in range(8)),
        return_exceptions=True,
    )
    words = Counter("no more" if "allows no more" in str(each) else "started" for each in answers)
    assert words == {"started": 3, "no more": 5}
    ports = [port for folder in (tmp_path / "machines").glob("m*") for port in (folder / "ports").read_text().split()]
    assert len(set(ports)) == 6


async def test_an_orchestrator_that_is_stopped_while_it_counts_stops_no_other_for_good(tmp_path: Path) -> None:
    provider = LocalProvider(
        LocalSettings(folder=tmp_path, agent_environ={"PYTHONHOME": str(tmp_path / "nowhere")}),
        free_port=free_port,
        turn_s=0.1,
    )
    with (tmp_path / "launching").open("w") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        with pytest.raises(ProviderError, match="Somebody else has been launching") as refused:
            await provider.launch(name="m", task=TASK, join_token="t")
        assert refused.value.temporary
        assert not (tmp_path / "m").exists()
    with pytest.raises(ProviderError, match="did not start"):
        await provider.launch(name="m", task=TASK, join_token="t")


async def test_an_agent_that_starts_while_its_machine_is_ended_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "lock").touch()
    rename = Path.rename

    def ended_meanwhile(self: Path, target: Path) -> Path:
        (folder / "ended").touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", ended_meanwhile)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it became the agent of a machine that was ended"))
    local_start.main(folder)


async def test_a_launch_that_wakes_up_after_its_machine_was_ended_makes_nothing(tmp_path: Path) -> None:
    settings = LocalSettings(folder=tmp_path, agent_environ={"PYTHONHOME": str(tmp_path / "nowhere")})
    provider = LocalProvider(settings, free_port=free_port)
    await provider.delete("m")
    async with asyncio.timeout(10):
        await provider.launch(name="m", task=TASK, join_token="t")
    assert sorted(each.name for each in (tmp_path / "m").iterdir()) == ["ended"]

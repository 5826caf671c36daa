"""Machines that are processes here: what is seen of an agent that does not come up."""

import asyncio
from pathlib import Path

import pytest

from crosslogic_dev.ports import free_port
from crosslogic_orchestrator.ports import ProviderError
from crosslogic_orchestrator.providers.local import LocalProvider, LocalSettings


async def test_an_agent_that_dies_at_its_start_is_told_of_at_once_and_with_its_last_words(tmp_path: Path) -> None:
    # Python itself does not start: its library is not there.
    settings = LocalSettings(folder=tmp_path, agent_environ={"PYTHONHOME": str(tmp_path / "nowhere")})
    provider = LocalProvider(settings, free_port=free_port)
    async with asyncio.timeout(15):
        with pytest.raises(ProviderError, match=r"The agent did not start: .+") as refused:
            await provider.launch(name="m", task='{"model": "x", "region": "local"}', join_token="t")
    assert refused.value.temporary
    assert (await provider.find("m")).state == "absent"
    assert await provider.machines() == []


async def test_machines_that_have_not_bound_their_ports_yet_are_given_no_others(tmp_path: Path) -> None:
    settings = LocalSettings(folder=tmp_path, agent_environ={"PYTHONHOME": str(tmp_path / "nowhere")})
    # Nobody listens on any of them, and chance names some twice.
    drawn = iter([7001, 7001, 7002, 7002, 7001, 7003, 7004])
    provider = LocalProvider(settings, free_port=lambda: next(drawn))
    for name in ("one", "other"):
        with pytest.raises(ProviderError):
            await provider.launch(name=name, task='{"model": "x", "region": "local"}', join_token="t")
    assert (tmp_path / "one/ports").read_text() == "7001 7002"
    assert (tmp_path / "other/ports").read_text() == "7003 7004"

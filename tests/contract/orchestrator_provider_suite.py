"""What every provider of machines must do. Subclasses give the fixture `pool`."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol
from uuid import uuid4

import pytest

from crosslogic_orchestrator.domain import Machine, Spec
from crosslogic_orchestrator.ports import Provider, ProviderError

TOKEN = "cljt_a-token-that-nobody-may-read"


class Pool(Protocol):
    """A provider and what is behind it."""

    @property
    def provider(self) -> Provider:
        """It."""

    spec: Spec
    """What it can give."""
    impossible: Spec
    """What it cannot."""

    def begun(self, name: str) -> int:
        """How many of it run, by a look that does not ask the provider."""

    def take_away(self, name: str) -> None:
        """The machine vanishes by itself."""


async def state(pool: Pool, name: str) -> str:
    return (await pool.provider.find(name)).state


async def reach(pool: Pool, name: str, *states: str) -> Machine:
    async with asyncio.timeout(60):
        while (found := await pool.provider.find(name)).state not in states:
            await asyncio.sleep(0.02)
    return found


async def end(pool: Pool, name: str) -> None:
    async with asyncio.timeout(60):
        while await state(pool, name) not in ("gone", "absent"):
            await pool.provider.delete(name)
            await asyncio.sleep(0.05)


async def launched(pool: Pool) -> str:
    name = str(uuid4())
    task = await pool.provider.task_for(pool.spec, name)
    await pool.provider.launch(name=name, task=task, join_token=TOKEN)
    await reach(pool, name, "running")
    return name


async def names(pool: Pool) -> set[str]:
    return {machine.name for machine in await pool.provider.machines()}


class ProviderSuite:
    """The suite."""

    @pytest.fixture
    async def one(self, pool: Pool) -> AsyncIterator[str]:
        name = await launched(pool)
        yield name
        await end(pool, name)

    async def test_what_was_never_asked_for_is_absent_and_can_be_ended_all_the_same(self, pool: Pool) -> None:
        name = str(uuid4())
        assert await state(pool, name) == "absent"
        await pool.provider.delete(name)
        assert await state(pool, name) in ("absent", "gone")
        assert name not in await names(pool)

    async def test_operators_read_what_is_asked_for_and_no_secret(self, pool: Pool) -> None:
        task = await pool.provider.task_for(pool.spec, str(uuid4()))
        assert pool.spec.model in task
        assert pool.spec.region in task
        assert TOKEN not in task

    async def test_a_launch_that_is_repeated_makes_one_machine(self, pool: Pool, one: str) -> None:
        task = await pool.provider.task_for(pool.spec, one)
        await asyncio.gather(
            *(pool.provider.launch(name=one, task=task, join_token=f"{TOKEN}-{number}") for number in range(3))
        )
        assert await state(pool, one) == "running"
        assert pool.begun(one) == 1
        assert one in await names(pool)

    async def test_launches_at_the_same_moment_make_one_machine(self, pool: Pool) -> None:
        name = str(uuid4())
        task = await pool.provider.task_for(pool.spec, name)
        await asyncio.gather(*(pool.provider.launch(name=name, task=task, join_token=TOKEN) for _ in range(4)))
        await reach(pool, name, "running")
        assert pool.begun(name) == 1
        await end(pool, name)

    async def test_a_machine_that_was_ended_is_gone_and_a_late_launch_brings_none_back(self, pool: Pool) -> None:
        name = await launched(pool)
        await end(pool, name)
        await pool.provider.delete(name)
        task = await pool.provider.task_for(pool.spec, name)
        await pool.provider.launch(name=name, task=task, join_token=TOKEN)
        assert await state(pool, name) in ("gone", "absent")
        assert name not in await names(pool)

    async def test_a_machine_that_vanishes_is_gone_and_no_longer_listed(self, pool: Pool, one: str) -> None:
        pool.take_away(one)
        assert (await reach(pool, one, "gone")).detail
        assert one not in await names(pool)

    async def test_what_cannot_be_had_is_refused_in_words_and_not_tried_again(self, pool: Pool) -> None:
        name = str(uuid4())

        async def ask() -> None:
            task = await pool.provider.task_for(pool.impossible, name)
            await pool.provider.launch(name=name, task=task, join_token=TOKEN)

        with pytest.raises(ProviderError) as refused:
            await ask()
        assert not refused.value.temporary
        assert len(str(refused.value)) > 20
        assert name not in await names(pool)

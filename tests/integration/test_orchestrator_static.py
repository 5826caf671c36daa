"""Machines of a pool: never given to two jobs, and given back, whoever dies on the way."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from crosslogic_common.postgres import Pool as Connections
from crosslogic_orchestrator.ports import ProviderError
from crosslogic_orchestrator.providers.static import pool_file
from tests.contract.orchestrator_provider_suite import TOKEN, ProviderSuite, end, launched, names, reach, state
from tests.fakes.static_pool import StaticPool, no_claims


@pytest.fixture
async def connections(pg_url: str) -> AsyncIterator[Connections]:
    async with no_claims(pg_url) as pool:
        yield pool


class TestStatic(ProviderSuite):
    @pytest.fixture
    async def pool(self, tmp_path: Path, connections: Connections) -> AsyncIterator[StaticPool]:
        pool = StaticPool(tmp_path, connections, machines=3)
        yield pool
        pool.end_all()

    async def test_twenty_launches_at_once_never_share_a_machine(self, pool: StaticPool) -> None:
        asked = [str(uuid4()) for _ in range(20)]
        task = await pool.provider.task_for(pool.spec, "any")
        ends = await asyncio.gather(
            *(pool.provider.launch(name=name, task=task, join_token=TOKEN) for name in asked), return_exceptions=True
        )
        refused = [each for each in ends if each is not None]
        assert len(refused) == 17
        assert all(isinstance(each, ProviderError) and "is taken" in str(each) for each in refused)
        assert len(pool.started()) == len({owner for owner, _ in pool.started()}) == 3
        for name in asked:
            await end(pool, name)
        # All three are free again.
        assert {await launched(pool) for _ in range(3)} == await names(pool)

    async def test_the_token_goes_over_no_argument_and_is_gone_from_the_machine(self, pool: StaticPool) -> None:
        name = await launched(pool)
        assert TOKEN not in (pool.folder / "ssh.log").read_text()
        (copy,) = pool.folder.glob(f"gpu*/token-of-{name}")
        assert copy.read_text() == TOKEN
        assert list(pool.folder.glob("gpu*/join-token")) == []

    async def test_a_machine_that_cannot_be_reached_is_not_given_to_the_next_job(self, pool: StaticPool) -> None:
        away = pool.folder / "away"
        away.touch()
        task = await pool.provider.task_for(pool.spec, "any")
        first = str(uuid4())
        with pytest.raises(ProviderError, match="rack-0 cannot be reached") as refused:
            await pool.provider.launch(name=first, task=task, join_token=TOKEN)
        assert not refused.value.temporary
        assert await state(pool, first) == "absent"
        away.unlink()
        assert "rack-1" in (await pool.provider.find(await launched(pool))).detail
        # Whoever claimed it gave up: after a while it is free.
        pool.clock.time += timedelta(hours=1)
        assert first not in await names(pool)
        assert "rack-0" in (await pool.provider.find(await launched(pool))).detail

    async def test_an_agent_whose_starter_died_before_noting_it_is_found_and_ended(self, pool: StaticPool) -> None:
        name = str(uuid4())
        task = await pool.provider.task_for(pool.spec, name)
        started = pool.claims.start
        pool.claims.start = died  # type: ignore[method-assign]
        with pytest.raises(ConnectionError):
            await pool.provider.launch(name=name, task=task, join_token=TOKEN)
        pool.claims.start = started  # type: ignore[method-assign]
        assert await state(pool, name) == "running"
        await end(pool, name)
        assert pool.begun(name) == 0

    async def test_an_agent_that_ran_while_its_machine_was_away_is_not_lost(self, pool: StaticPool) -> None:
        name = await launched(pool)
        (pool.folder / "away").touch()
        assert "cannot be reached" in (await reach(pool, name, "pending")).detail
        assert name in await names(pool)
        with pytest.raises(ProviderError) as refused:
            await pool.provider.delete(name)
        assert refused.value.temporary
        (pool.folder / "away").unlink()
        assert await state(pool, name) == "running"

    async def test_a_machine_whose_agent_vanished_is_free_after_the_sweep(self, pool: StaticPool) -> None:
        kept = [await launched(pool) for _ in range(3)]
        pool.take_away(kept[0])
        await reach(pool, kept[0], "gone")
        assert await names(pool) == set(kept[1:])
        await launched(pool)


async def died(*_: object, **__: object) -> None:
    raise ConnectionError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "is no pool"),
        ("[[machine]]\nname='a'", "is no pool"),
        ("[[machine]]\nname='a'\nssh='-oProxyCommand=x'\nregion='r'", "strange characters"),
        ("[[machine]]\nname='a'\nssh='h'\nregion='r'\n[[machine]]\nname='a'\nssh='i'\nregion='r'", "each once"),
    ],
)
def test_a_pool_file_that_cannot_be_right_stops_the_start(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        pool_file(str(file))

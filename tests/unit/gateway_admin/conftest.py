"""The admin API over fakes."""

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestServer

from tests.fakes.admin_neighbours import TOKEN, AdminClient, Neighbours


@pytest.fixture
def neighbours() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def admin(neighbours: Neighbours) -> AsyncIterator[AdminClient]:
    async with AdminClient(TestServer(neighbours.app()), headers={"X-Admin-Token": TOKEN}) as client:
        yield client

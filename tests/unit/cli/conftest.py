"""The command line against the admin API itself, whose neighbours are fakes."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.admin_neighbours import Neighbours
from tests.fakes.command_line import CommandLine


@pytest.fixture
def neighbours() -> Neighbours:
    return Neighbours()


@pytest.fixture
async def line(neighbours: Neighbours) -> AsyncIterator[CommandLine]:
    async with CommandLine(neighbours.app()) as found:
        yield found

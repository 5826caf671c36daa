"""A simulated engine that answers, one for all contract tests."""

from collections.abc import Iterator

import pytest

from tests.fakes.engine_server import RunningEngine, sim_engine


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with sim_engine("--decode-tps", "500", folder=tmp_path_factory.mktemp("engines")) as running:
        yield running

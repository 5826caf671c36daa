"""Engines that answer, one of each kind for all contract tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.engine_server import RunningEngine, sim_engine, vllm_engine


@pytest.fixture(scope="session")
def engine_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def simulated(engine_folder: Path) -> Iterator[RunningEngine]:
    with sim_engine("--decode-tps", "500", folder=engine_folder) as running:
        yield running


@pytest.fixture(scope="session")
def real_vllm(engine_folder: Path) -> Iterator[RunningEngine]:
    with vllm_engine(folder=engine_folder) as running:
        yield running

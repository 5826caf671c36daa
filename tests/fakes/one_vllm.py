"""A real vLLM for all tests that only ask it something: it needs half a minute to start."""

from collections.abc import Iterator

import pytest

from tests.fakes.engine_server import RunningEngine, vllm_engine


@pytest.fixture(scope="session")
def real_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with vllm_engine(folder=tmp_path_factory.mktemp("vllm")) as running:
        yield running

"""Whole suites as real processes: a simulated one and one with real vLLM a session.

A module that needs other settings, or leaves a suite otherwise than it found it, has a `suite` of its own.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosslogic_dev.engine.command import engine_command
from crosslogic_dev.engine.install import engine_python, gpu_present
from crosslogic_dev.engines import ENGINE_VENV, TINY_MODEL
from crosslogic_dev.suite import Suite
from crosslogic_model_store.place import Place
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_sim import Sims
from tests.fakes.s3_server import environ_of, s3_server

ROOT = Path(__file__).parents[2]
WITNESS_GRACE_S = 2.0


def simulated(*, nodes: int = 1, step_ms: int = 10, settings: dict[str, dict[str, str]] | None = None) -> Suite:
    """A suite with simulated engines that generate a token every `step_ms`."""
    return Suite(
        engine="sim",
        nodes=nodes,
        root=ROOT,
        durable=False,
        sim_arguments=("--step-ms", str(step_ms), "--prefill-tps", "0"),
        settings={"accountant": {"CROSSLOGIC_WITNESS_GRACE_S": str(WITNESS_GRACE_S)}, **(settings or {})},
    )


@pytest.fixture(scope="session")
def simulation() -> Iterator[Suite]:
    with simulated() as running:
        yield running


@pytest.fixture(scope="module")
def suite(simulation: Suite) -> Suite:
    return simulation


@pytest.fixture(scope="module")
def ledger(suite: Suite) -> Ledger:
    return Ledger(suite)


@pytest.fixture(scope="module")
def sims(suite: Suite) -> Sims:
    return Sims(suite)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A real S3 server, where machines of `vllm` that are launched get their weights."""
    with s3_server(tmp_path_factory.mktemp("s3")) as place:
        yield place


@pytest.fixture(scope="session")
def vllm(weights: Place) -> Iterator[Suite]:
    python, gpu = engine_python(ROOT / ENGINE_VENV), gpu_present(os.environ)
    command = engine_command(python, "{weights}", TINY_MODEL, port="{port}", gpu=gpu)
    machine = {"CROSSLOGIC_WEIGHTS_SOURCE": "store", "CROSSLOGIC_ENGINE_COMMAND": json.dumps(command)}
    settings = {"registry": environ_of(weights), "machine": machine}
    with Suite(engine="vllm", nodes=2, root=ROOT, settings=settings) as running:
        yield running

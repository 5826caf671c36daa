"""Whole suites as real processes. A simulated one a module, a real vLLM once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crosslogic_dev.suite import Suite
from tests.fakes.e2e_ledger import Ledger
from tests.fakes.e2e_sim import Sims

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


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    with simulated() as running:
        yield running


@pytest.fixture(scope="module")
def ledger(suite: Suite) -> Ledger:
    return Ledger(suite)


@pytest.fixture(scope="module")
def sims(suite: Suite) -> Sims:
    return Sims(suite)


@pytest.fixture(scope="session")
def vllm() -> Iterator[Suite]:
    with Suite(engine="vllm", nodes=2, root=ROOT) as running:
        yield running


@pytest.fixture(scope="module")
def simulation() -> Iterator[Suite]:
    """A simulated suite under a name of its own, for modules whose `suite` is sometimes another."""
    with simulated() as running:
        yield running

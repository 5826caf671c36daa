"""The engine that each node agent of the suite supervises."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crosslogic_dev.plan import Plan
from crosslogic_dev.progress import Progress

SIM_MODEL = "crosslogic-sim"
SIM_CONTEXT_LENGTH = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCommand:
    """How an engine is started, and what it serves."""

    argv: Callable[[int], list[str]]
    """The command line for a port."""
    model: str
    """Its name in the catalogue and in requests."""
    context_length: int
    start_timeout_s: float
    """How long it may take until it answers and is measured."""
    environ: Mapping[str, str] = field(default_factory=dict)


def sim_engine(plan: Plan, arguments: tuple[str, ...] = ()) -> EngineCommand:
    """The simulated engine; `arguments` are more of its options."""
    model = plan.model or SIM_MODEL

    def argv(port: int) -> list[str]:
        return [sys.executable, "-m", "crosslogic_sim_engine", "--port", str(port), "--model", model, *arguments]

    return EngineCommand(argv=argv, model=model, context_length=SIM_CONTEXT_LENGTH, start_timeout_s=60.0)


def prepare_engine(plan: Plan, *, root: Path, progress: Progress, sim_arguments: tuple[str, ...] = ()) -> EngineCommand:
    """Installs what the engine needs and makes its model, where that was not done before."""
    if plan.engine == "sim":
        return sim_engine(plan, sim_arguments)
    raise NotImplementedError(root, progress)

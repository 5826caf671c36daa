"""The engine that each node agent of the suite supervises."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import crosslogic_dev
from crosslogic_dev.engine.command import DEFAULT_CONTEXT_TOKENS, engine_command, engine_env
from crosslogic_dev.engine.install import engine_python, gpu_present, install_engine
from crosslogic_dev.failure import DevError
from crosslogic_dev.plan import Plan
from crosslogic_dev.progress import Progress

SIM_MODEL = "crosslogic-sim"
SIM_CONTEXT_LENGTH = 8192
TINY_MODEL = "crosslogic-tiny"
ENGINE_VENV = ".venv-engine"
_VLLM_START_TIMEOUT_S = 900.0
_SIM_START_TIMEOUT_S = 60.0
_TINY_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCommand:
    """How an engine is started, and what it serves."""

    argv: Callable[[int | str], list[str]]
    """The command line for a port, or for a word that a port replaces later."""
    model: str
    """Its name in the catalogue and in requests."""
    context_length: int
    start_timeout_s: float
    """How long it may take until it answers and is measured."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """What to add to its environment."""


def prepare_engine(
    plan: Plan, *, root: Path, environ: Mapping[str, str], progress: Progress, sim_arguments: tuple[str, ...] = ()
) -> EngineCommand:
    """Installs what the engine needs and makes its model, where that was not done before. Raises DevError."""
    if plan.engine == "sim":
        return _sim_engine(plan, sim_arguments)
    venv = root / ENGINE_VENV
    install_engine(venv, report=progress, environ=environ)
    python = engine_python(venv)
    gpu = gpu_present(environ)
    if not plan.model:
        folder = _tiny_model(python, root / ".run" / "models" / "tiny", environ=environ, progress=progress)
        return _vllm_engine(python, str(folder), TINY_MODEL, gpu=gpu, offline=True, threads=1)
    threads = max(1, (os.cpu_count() or 1) - 1)
    local = Path(plan.model).expanduser()
    if local.is_dir():
        folder = local.resolve()
        return _vllm_engine(python, str(folder), folder.name, gpu=gpu, offline=True, threads=threads)
    return _vllm_engine(python, plan.model, plan.model, gpu=gpu, offline=False, threads=threads)


def _sim_engine(plan: Plan, arguments: tuple[str, ...]) -> EngineCommand:
    model = plan.model or SIM_MODEL

    def argv(port: int | str) -> list[str]:
        return [sys.executable, "-m", "crosslogic_sim_engine", "--port", str(port), "--model", model, *arguments]

    return EngineCommand(
        argv=argv, model=model, context_length=SIM_CONTEXT_LENGTH, start_timeout_s=_SIM_START_TIMEOUT_S
    )


def _vllm_engine(
    python: Path, model: str, served_name: str, *, gpu: bool, offline: bool, threads: int
) -> EngineCommand:
    context_length = _context_length(Path(model))

    def argv(port: int | str) -> list[str]:
        return engine_command(python, model, served_name, port=port, max_model_len=context_length, gpu=gpu)

    return EngineCommand(
        argv=argv,
        model=served_name,
        context_length=context_length,
        start_timeout_s=_VLLM_START_TIMEOUT_S,
        environ=engine_env(gpu=gpu, offline=offline, threads=threads),
    )


def _context_length(folder: Path) -> int:
    """What fits into the memory set aside, and never more than the model was made for, where that can be read."""
    try:
        own = json.loads((folder / "config.json").read_text()).get("max_position_embeddings")
    except (OSError, ValueError):
        own = None
    return min(own, DEFAULT_CONTEXT_TOKENS) if isinstance(own, int) and own > 0 else DEFAULT_CONTEXT_TOKENS


def _tiny_model(python: Path, folder: Path, *, environ: Mapping[str, str], progress: Progress) -> Path:
    if (folder / "config.json").exists():
        return folder
    # The engine's Python has torch and not our packages: the module needs nothing of them but to be found.
    source = Path(crosslogic_dev.__file__).parents[1]
    made = subprocess.run(
        [str(python), "-m", "crosslogic_dev.engine.tiny_model", str(folder)],
        env={**environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=_TINY_TIMEOUT_S,
        check=False,
    )
    if made.returncode != 0:
        last = (made.stderr.strip() or "no output").splitlines()[-1]
        raise DevError(f"The tiny model cannot be made in {folder}: {last}")
    progress(f"made a tiny model with random weights in {folder}")
    return folder

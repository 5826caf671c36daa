"""Engines as processes: the simulated one and real vLLM, started on a free port and stopped by their process group."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import crosslogic_dev
from crosslogic_dev.engine.command import engine_command, engine_env
from crosslogic_dev.engine.install import engine_python, install_engine
from crosslogic_dev.ports import free_port
from crosslogic_dev.progress import no_progress

ROOT = Path(__file__).resolve().parents[2]
ENGINE_VENV = ROOT / ".venv-engine"
SIM_START_S = 20.0
VLLM_START_S = 240.0
STOP_GRACE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningEngine:
    """An engine that answers."""

    kind: str
    """`sim` or `vllm`."""
    base_url: str
    port: int
    model: str
    context_tokens: int
    process: subprocess.Popen[bytes]
    log: Path

    def metrics(self) -> dict[str, float]:
        """Its vllm: metrics without labels other than the engine's and model's, without the prefix."""
        text = fetch(f"{self.base_url}/metrics").decode()
        found = re.findall(r'^vllm:(\w+)\{engine="0",model_name="[^"]*"\} (\S+)$', text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def wait_idle(self, *, timeout_s: float = 10.0) -> float:
        """Waits until no request runs; returns how long that took, in seconds."""
        begin = time.monotonic()
        while self.metrics()["num_requests_running"] or self.metrics()["num_requests_waiting"]:
            assert time.monotonic() - begin < timeout_s, "the engine still works"
            time.sleep(0.01)
        return time.monotonic() - begin


def fetch(url: str, *, timeout_s: float = 5.0) -> bytes:
    """A GET that no proxy of the environment sees."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout_s) as answer:
        body: bytes = answer.read()
        return body


@contextlib.contextmanager
def sim_engine(
    *options: str, folder: Path, model: str = "sim-model", context_tokens: int = 4096
) -> Iterator[RunningEngine]:
    """A simulated engine with these options; its log is in `folder`."""
    port = free_port()
    command = [sys.executable, "-m", "crosslogic_sim_engine", "--port", str(port), "--model", model]
    command += ["--context-limit", str(context_tokens), *options]
    with _running(command, os.environ, folder / f"sim-{port}.log") as process:
        engine = RunningEngine(
            kind="sim",
            base_url=f"http://127.0.0.1:{port}",
            port=port,
            model=model,
            context_tokens=context_tokens,
            process=process,
            log=folder / f"sim-{port}.log",
        )
        _wait_ready(engine, timeout_s=SIM_START_S)
        yield engine


@contextlib.contextmanager
def vllm_engine(
    *options: str, folder: Path, model: str = "tiny-llama", context_tokens: int = 4096
) -> Iterator[RunningEngine]:
    """Real vLLM with the tiny model; both are made where they are not there yet."""
    install_engine(ENGINE_VENV, report=no_progress, environ=os.environ)
    python = engine_python(ENGINE_VENV)
    make_tiny_model(folder / "tiny")
    port = free_port()
    command = engine_command(
        python, str(folder / "tiny"), model, port=port, max_model_len=context_tokens, extra=options
    )
    log = folder / f"vllm-{port}.log"
    with _running(command, {**os.environ, **engine_env()}, log) as process:
        engine = RunningEngine(
            kind="vllm",
            base_url=f"http://127.0.0.1:{port}",
            port=port,
            model=model,
            context_tokens=context_tokens,
            process=process,
            log=log,
        )
        _wait_ready(engine, timeout_s=VLLM_START_S)
        yield engine


@contextlib.asynccontextmanager
async def start_sim_engine(*options: str, folder: Path, model: str = "sim-model") -> AsyncIterator[RunningEngine]:
    """`sim_engine` for tests that run an event loop."""
    async with _threaded(sim_engine(*options, folder=folder, model=model)) as engine:
        yield engine


@contextlib.asynccontextmanager
async def start_vllm_engine(*options: str, folder: Path, model: str = "tiny-llama") -> AsyncIterator[RunningEngine]:
    """`vllm_engine` for tests that run an event loop."""
    async with _threaded(vllm_engine(*options, folder=folder, model=model)) as engine:
        yield engine


def make_tiny_model(folder: Path) -> None:
    """Makes the tiny model with the engine's own Python, unless it is there."""
    source = Path(crosslogic_dev.__file__).parents[1]
    subprocess.run(
        [str(engine_python(ENGINE_VENV)), "-m", "crosslogic_dev.engine.tiny_model", str(folder)],
        env={**os.environ, "PYTHONPATH": str(source)},
        check=True,
        capture_output=True,
        timeout=120,
    )


@contextlib.asynccontextmanager
async def _threaded(engine: contextlib.AbstractContextManager[RunningEngine]) -> AsyncIterator[RunningEngine]:
    running = await asyncio.to_thread(engine.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(engine.__exit__, None, None, None)


@contextlib.contextmanager
def _running(command: Sequence[str], environ: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=dict(environ), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_S)
    # vLLM's engine core and worker outlive a server that was killed: what is left of the session goes now.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_ready(engine: RunningEngine, *, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError):
            fetch(f"{engine.base_url}/health")
            return
        ended = engine.process.poll()
        assert ended is None, f"the engine ended with {ended}: {engine.log.read_text(errors='replace')[-2000:]}"
        assert time.monotonic() < until, f"the engine did not start: {engine.log.read_text(errors='replace')[-2000:]}"
        time.sleep(0.05)

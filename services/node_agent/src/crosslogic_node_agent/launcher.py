"""Starts the agent's present version, and goes back to the one before when a new one does not hold. A script.

    launcher.py <directory>

Standard library only: it is copied out of the first version that is installed and never updated with the others. The
directory holds `versions/<version>/` (a virtual environment each), the links `current` and `previous`, and
`update.json` while a new version is on trial. Each start of a version on trial is counted; one that was started
MAX_STARTS times and has not said that it is well (by removing `update.json`) is left for the one before.
"""

import json
import os
import sys
from pathlib import Path

MAX_STARTS = 3


def switch(directory: Path, link: str, target: str) -> None:
    """Points a link elsewhere, at once: no start ever finds none."""
    temporary = directory / f".{link}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(directory / link)


def prepare(directory: Path) -> str:
    """Decides which version is started; why, for the log."""
    trial_file = directory / "update.json"
    try:
        trial = json.loads(trial_file.read_text(encoding="utf-8"))
        starts, previous = int(trial["starts"]), str(trial["previous"])
    except FileNotFoundError:
        return "the installed version"
    except (OSError, ValueError, KeyError, TypeError):
        # Nobody knows what was on trial: what is there is what there is.
        trial_file.unlink(missing_ok=True)
        return "the installed version; the record of a trial was unreadable"
    if starts >= MAX_STARTS:
        failed = (directory / "current").readlink().name
        switch(directory, "current", previous)
        (directory / "rolled-back").write_text(failed + "\n", encoding="utf-8")
        trial_file.unlink(missing_ok=True)
        return f"back to {Path(previous).name}: {failed} did not get well in {MAX_STARTS} starts"
    temporary = trial_file.with_name(f".update.{os.getpid()}")
    temporary.write_text(json.dumps({**trial, "starts": starts + 1}), encoding="utf-8")
    temporary.replace(trial_file)
    return f"on trial, start {starts + 1} of {MAX_STARTS}"


def main() -> None:
    """Becomes the agent."""
    directory = Path(sys.argv[1])
    print(f"launcher: {prepare(directory)}", file=sys.stderr, flush=True)  # noqa: T201  # the service's log
    python = directory / "current" / "bin" / "python"
    os.execv(python, [str(python), "-m", "crosslogic_node_agent"])  # noqa: S606  # the installed version


if __name__ == "__main__":
    main()

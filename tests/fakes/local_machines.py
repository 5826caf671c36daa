"""Machines of the provider `local`, read from the system and not from what the provider notes."""

from pathlib import Path

from crosslogic_dev.suite import Suite


def agents_here(suite: Suite) -> dict[str, list[int]]:
    """Processes of agents by the machine that they are."""
    found: dict[str, list[int]] = {}
    here = f"{suite.run_dir.machines}/"
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            environ = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        state = next((each for each in environ if each.startswith(b"CROSSLOGIC_STATE_DIR=")), b"").decode()
        if b"crosslogic_node_agent" in command and here in state:
            found.setdefault(state.partition(here)[2].partition("/")[0], []).append(int(folder.name))
    return found

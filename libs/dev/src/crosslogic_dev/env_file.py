"""`.run/env`: what a shell, a client or a test needs to use the suite."""

from collections.abc import Mapping

from crosslogic_dev.run_dir import RunDir, write_private


def read_env(run_dir: RunDir) -> dict[str, str]:
    """Its lines; nothing when it is not there."""
    try:
        lines = run_dir.env_file.read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def write_env(run_dir: RunDir, values: Mapping[str, str]) -> None:
    """Writes it, unless it says the same already."""
    if read_env(run_dir) != dict(values):
        write_private(run_dir.env_file, "".join(f"{key}={value}\n" for key, value in values.items()))

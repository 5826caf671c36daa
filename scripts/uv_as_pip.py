"""How uv is told what pip is configured for: prints variables for `env`, one a line.

uv reads none of pip's configuration. Indexes and folders of files it can be told; where pip is told more (a proxy, a
client's certificate, to ask no index at all), nothing is printed and the exit status is 1: then pip is to be used.
"""

import ast
import subprocess
import sys

_TOLD = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}
_SEPARATORS = {"UV_INDEX": " ", "UV_FIND_LINKS": ","}
_OF_NO_MATTER = {
    "cert",
    "timeout",
    "default-timeout",
    "retries",
    "disable-pip-version-check",
    "cache-dir",
    "no-cache-dir",
}
_OF_NO_MATTER |= {
    "root-user-action",
    "break-system-packages",
    "progress-bar",
    "no-color",
    "no-input",
    "quiet",
    "verbose",
}


def variables(listed: str) -> dict[str, str] | None:
    """What `pip config list` printed as uv's variables. None: uv cannot do as pip is told to."""
    found: dict[str, str] = {}
    # The environment comes first there, and counts more than what comes after it.
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in _OF_NO_MATTER:
            continue
        if name not in _TOLD:
            return None
        variable = _TOLD[name]
        found.setdefault(variable, _SEPARATORS.get(variable, " ").join(ast.literal_eval(value).split()))
    return found


def main() -> int:
    """Asks the pip of this interpreter."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own
    told = variables(asked.stdout) if asked.returncode == 0 else None
    if told is None:
        return 1
    sys.stdout.writelines(f"{name}={value}\n" for name, value in told.items())
    return 0


if __name__ == "__main__":
    sys.exit(main())

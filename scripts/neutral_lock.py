"""Takes the registry's hosts out of uv.lock (docs/adr/0001-lock-without-hosts.md)."""

import re
import sys
from pathlib import Path


def main() -> None:
    """Rewrites the lock file named on the command line."""
    path = Path(sys.argv[1])
    text = re.sub(r'registry = "https://[^"]+"', 'registry = "https://registry.invalid/simple"', path.read_text())
    path.write_text(re.sub(r'url = "https://[^/"]+/(?:[^"]*/)?([^/"]+)"', r'url = "https://registry.invalid/\1"', text))


if __name__ == "__main__":
    main()

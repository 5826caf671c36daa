"""Takes the registry's hosts out of uv.lock, or puts one in to lock again (docs/adr/0001-lock-without-hosts.md)."""

import argparse
import re
from pathlib import Path

NEUTRAL = "https://registry.invalid/simple"


def main() -> None:
    """Rewrites the lock file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--registry", default=NEUTRAL, help="what to write as the registry")
    arguments = parser.parse_args()
    text = arguments.lock.read_text()
    text = re.sub(r'registry = "https?://[^"]+"', f'registry = "{arguments.registry}"', text)
    text = re.sub(r'url = "https?://[^/"]+/(?:[^"]*/)?([^/"]+)"', r'url = "https://registry.invalid/\1"', text)
    arguments.lock.write_text(text)


if __name__ == "__main__":
    main()

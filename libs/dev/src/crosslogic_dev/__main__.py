"""`python -m crosslogic_dev`."""

import sys

from crosslogic_dev.cli import main

if __name__ == "__main__":
    sys.exit(main())

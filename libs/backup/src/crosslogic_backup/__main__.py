"""`python -m crosslogic_backup`."""

from crosslogic_backup.cli import main

main()

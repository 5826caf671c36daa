"""`python -m crosslogic_cli`."""

from crosslogic_cli.main import main

main()

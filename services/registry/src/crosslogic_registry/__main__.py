"""`python -m crosslogic_registry`."""

from crosslogic_registry.main import main

main()

"""`python -m crosslogic_orchestrator`."""

from crosslogic_orchestrator.main import main

main()

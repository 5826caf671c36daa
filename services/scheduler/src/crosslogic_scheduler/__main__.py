"""`python -m crosslogic_scheduler`."""

from crosslogic_scheduler.main import main

main()

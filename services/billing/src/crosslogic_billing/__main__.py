"""`python -m crosslogic_billing`."""

from crosslogic_billing.main import main

main()

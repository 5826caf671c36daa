"""`python -m crosslogic_accountant`."""

from crosslogic_accountant.main import main

main()

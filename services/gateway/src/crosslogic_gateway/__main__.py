"""`python -m crosslogic_gateway`."""

from crosslogic_gateway.main import main

main()

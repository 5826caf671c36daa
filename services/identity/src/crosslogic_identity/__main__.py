"""`python -m crosslogic_identity`."""

from crosslogic_identity.main import main

main()

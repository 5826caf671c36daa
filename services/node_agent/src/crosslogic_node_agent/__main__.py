"""`python -m crosslogic_node_agent`."""

from crosslogic_node_agent.main import main

main()

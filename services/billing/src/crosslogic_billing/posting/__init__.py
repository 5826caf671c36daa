"""What the money ledger is told beyond usage at its prices."""

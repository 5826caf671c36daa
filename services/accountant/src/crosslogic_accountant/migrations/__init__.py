"""Forward-only SQL of schema `ledger`."""

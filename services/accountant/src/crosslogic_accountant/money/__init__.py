"""The money ledger: double entry, holds, what usage costs."""

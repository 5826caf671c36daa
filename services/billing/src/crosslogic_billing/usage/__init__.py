"""From the ledger to what each organisation used in each window and month."""

"""`Idempotency-Key`: a repeat of a POST gets the first answer and is not carried out again (ADR 16)."""

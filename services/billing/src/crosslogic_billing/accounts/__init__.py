"""Organisations as billing knows them: what was agreed, and who they are to Stripe."""

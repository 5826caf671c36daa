"""The price book, rating, the export to Stripe, and reconciliation."""

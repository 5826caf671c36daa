"""How many requests a model's nodes take in a region, and which gateway may send them (ADR 17)."""

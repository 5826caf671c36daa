"""An OpenAI-compatible endpoint of somebody else's in place of an engine (ADR 87)."""

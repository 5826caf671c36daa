"""Who is served when not everybody can be (ADR 18)."""

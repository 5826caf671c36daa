"""Forward-only SQL of schema `billing`."""

"""Model weights in object storage, how nodes get them, and what they need to run."""

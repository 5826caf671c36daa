"""What a model is, read from its own files. Pure."""

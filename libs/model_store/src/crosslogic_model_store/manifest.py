"""What a version of a model is made of. Pure."""

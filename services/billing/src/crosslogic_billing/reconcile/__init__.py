"""Whether every place that counts has counted the same."""

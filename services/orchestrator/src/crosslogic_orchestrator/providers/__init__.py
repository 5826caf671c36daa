"""Who makes machines."""

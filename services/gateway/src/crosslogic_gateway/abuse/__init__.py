"""Keys that do harm are suspended by themselves, and why is written down."""

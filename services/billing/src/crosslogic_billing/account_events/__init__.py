"""What happened to accounts, for whoever tells people of it."""

"""What is handed to the payment provider, and how it gets there exactly once."""

"""What customers and operators look at."""

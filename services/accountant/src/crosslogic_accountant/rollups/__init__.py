"""Sums by hour and day, kept in step with the records."""

"""Spending budgets, and what has been spent so far."""

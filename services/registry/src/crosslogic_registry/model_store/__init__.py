"""Versions of models, which of them each environment serves, and how nodes get their weights."""

"""Tells people and programs what happened: routes, an outbox, and what is sent over each channel."""

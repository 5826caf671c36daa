"""Backups of PostgreSQL to object storage, and restores that are compared row for row."""

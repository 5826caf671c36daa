"""Addresses that let one object be read for a while. Pure."""

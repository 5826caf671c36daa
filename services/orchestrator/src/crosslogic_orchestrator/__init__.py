"""Machines: launched, watched while they load, replaced, ended."""

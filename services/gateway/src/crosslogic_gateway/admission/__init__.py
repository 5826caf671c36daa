"""Admission: who may run what now, across all gateway workers (docs/adr/0013)."""

"""Speaks to SkyPilot for the orchestrator, from SkyPilot's own environment."""

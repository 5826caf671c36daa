"""Deployments: how many machines a model has at a place, which, and why."""

"""Organisations, environments and API keys"""

"""Picks the node for each request"""

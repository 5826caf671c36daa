"""Supervises the engine on a GPU machine and relays inference"""

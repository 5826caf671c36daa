"""Starts the whole suite on one machine"""

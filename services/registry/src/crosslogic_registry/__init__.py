"""Nodes, their certificates and the model catalogue"""

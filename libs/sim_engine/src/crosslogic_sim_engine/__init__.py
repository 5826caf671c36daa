"""A simulated vLLM engine for load and failure tests"""

"""A simulated vLLM: the same HTTP answers at a known speed, with faults on demand and every token counted."""

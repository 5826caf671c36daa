"""Whether a model fits on an accelerator, with the arithmetic. Pure."""

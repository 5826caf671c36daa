"""How a machine learns that its cloud takes it back."""

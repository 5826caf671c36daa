"""What the suite costs, measured: `python -m benchmarks` (see docs/benchmarks.md)."""

"""Speed and memory of the losses, beside their peers: ``python -m benchmarks``."""

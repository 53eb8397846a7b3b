"""Benchmarks of speed and memory, compared with PyTorch. The package does not import this folder."""

"""What tools/benchmark.py compares, and how."""

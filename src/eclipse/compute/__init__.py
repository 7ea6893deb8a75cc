"""The machine: where to compute, in which precision, from which randomness."""

"""Checkpoints without a topology: written by any number of ranks, read by any other number."""

"""Sharded data sets: their form on storage, the order of their samples, reading and writing."""

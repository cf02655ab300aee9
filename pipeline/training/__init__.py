"""Training on workers: engine, step, loop, checkpoints, and the run they belong to."""

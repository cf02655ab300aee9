"""What a cluster makes of a training configuration, part by part (`jobs.benchmark`)."""

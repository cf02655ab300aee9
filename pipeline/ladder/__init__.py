"""Several families trained for the same compute, in one table and one picture (`jobs.ladder`)."""

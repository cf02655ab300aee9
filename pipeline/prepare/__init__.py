"""Images of any origin -> sharded data sets (`jobs.prepare`)."""

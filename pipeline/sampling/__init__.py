"""Data sets of images drawn from trained models (`jobs.sample`)."""

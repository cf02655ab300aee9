"""Likelihood of trained models over whole splits (`jobs.evaluate`)."""

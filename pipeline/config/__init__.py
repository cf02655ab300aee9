"""Typed configuration: one frozen pydantic model per job, loaded by `pipeline.config.load`."""

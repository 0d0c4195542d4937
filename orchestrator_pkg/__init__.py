"""The Dagster plugin: run launcher, executor, I/O managers, map/reduce assets and the worker."""

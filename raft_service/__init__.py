"""The control plane: a replicated ledger of workers and tasks. Knows nothing of Dagster, torch or S3."""

__version__ = "0.1.0"

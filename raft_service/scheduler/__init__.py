"""The replicated ledger of workers and tasks, placement and liveness rules: pure functions and state machines."""

"""The worker: the agent of one machine, its slots, and the process inside a slot."""

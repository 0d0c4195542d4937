"""The Raft core: a pure state machine in the shape of etcd/raft (Step, Tick, Ready, Advance, Progress).

Read in this order: `messages`, `raw_node` (the caller's duties), `core`, `step`, then `election`, `sending`,
`replication`, `following`; `quorum` and `confchange` stand on their own.
"""

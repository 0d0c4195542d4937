"""The Raft core: a pure state machine in the shape of etcd/raft (Step, Tick, Ready, Advance, Progress)."""

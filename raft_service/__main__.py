"""`python -m raft_service` runs one node of the control plane."""

from raft_service.server import main

main(prog_name="orchestrator-node")

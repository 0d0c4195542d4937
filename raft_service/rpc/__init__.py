"""gRPC servers and clients of the control plane."""

import os

# Before gRPC is imported. Its fork handlers run in every child that Python forks to start a program; while our threads
# are inside gRPC they abort the child before it gets to exec. Without them such children are safe.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

"""gRPC servers and clients of the control plane."""

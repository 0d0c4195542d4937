"""Benchmarks: each measures peers and ourselves in one run on one machine, and writes a table and JSON."""

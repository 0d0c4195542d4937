"""Prometheus metrics of a node, in a registry of their own. Every name begins with orchestrator_."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# From below one fdatasync of a good disk to an election.
_LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
_SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """Counters are raised where things happen; gauges are set by `Node` before each reading."""

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        # Gauges.
        self.is_leader = self._gauge("orchestrator_is_leader", "1 while this node leads and serves")
        self.term = self._gauge("orchestrator_term", "Term of this node")
        self.commit_index = self._gauge("orchestrator_commit_index", "Log index known to be committed")
        self.applied_index = self._gauge("orchestrator_applied_index", "Log index applied to the ledger")
        self.tasks = Gauge("orchestrator_tasks", "Tasks by state", ["state"], registry=self.registry)
        self.workers = Gauge("orchestrator_workers", "Workers by state", ["state"], registry=self.registry)
        self.sessions = self._gauge("orchestrator_sessions", "Open sessions of clients")
        self.watches = self._gauge("orchestrator_watches", "Open watches of clients")
        self.wal_bytes = self._gauge("orchestrator_wal_bytes", "Bytes of the write-ahead log on disk")
        self.wal_sync_seconds = self._gauge("orchestrator_wal_sync_seconds", "How long the last fdatasync took")
        self.stalls = self._gauge("orchestrator_loop_stalls", "Times this process stood still for an election timeout")
        # Counters.
        self.leader_changes = self._counter("orchestrator_leader_changes_total", "Leaders that this node saw come")
        self.workers_lost = self._counter("orchestrator_workers_lost_total", "Workers that this node declared lost")
        self.heartbeats = self._counter("orchestrator_heartbeats_total", "Heartbeats that this node acknowledged")
        self.requests = Counter(
            "orchestrator_requests_total", "Requests in sessions by kind", ["kind"], registry=self.registry
        )
        # Histograms.
        self.entry_seconds = Histogram(
            "orchestrator_entry_seconds",
            "From proposing a log entry to applying it",
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.entry_commands = Histogram(
            "orchestrator_entry_commands", "Commands in a log entry", buckets=_SIZE_BUCKETS, registry=self.registry
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def note_entry(self, *, commands: int, took_s: float) -> None:
        """An entry that this node proposed was applied."""
        self.entry_commands.observe(commands)
        self.entry_seconds.observe(took_s)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

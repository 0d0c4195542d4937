"""What a worker counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a warm slot (about a millisecond) to a run slot that is started first (seconds).
START_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class WorkerMetrics:
    """The metrics of one worker, in a registry of their own so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.attempts_ended = Counter(
            "orchestrator_worker_attempts_ended",
            "Attempts by how they ended",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.start_seconds = Histogram(
            "orchestrator_worker_start_seconds",
            "From the arrival of an assignment to the start of its handler",
            ["kind"],
            buckets=START_BUCKETS_S,
            registry=self.registry,
        )
        self.slots_replaced = Counter(
            "orchestrator_worker_slots_replaced", "Slot processes replaced", ["kind"], registry=self.registry
        )
        self.slot_starts_failed = Counter(
            "orchestrator_worker_slot_starts_failed",
            "Slot processes that never were ready",
            ["kind"],
            registry=self.registry,
        )
        self.heartbeats = Counter(
            "orchestrator_worker_heartbeats", "Heartbeats by outcome", ["outcome"], registry=self.registry
        )
        self.freezes = Counter(
            "orchestrator_worker_freezes", "Times that slots were frozen for want of a lease", registry=self.registry
        )
        self.attempts = Gauge("orchestrator_worker_attempts", "Attempts at hand", registry=self.registry)
        self.lease_age_seconds = Gauge(
            "orchestrator_worker_lease_age_seconds",
            "Since the last acknowledged heartbeat was sent; -1: none was",
            registry=self.registry,
        )

"""gRPC channels and listeners with the options that all parts share."""

from __future__ import annotations

import grpc
import grpc.aio

from raft_service.config import TlsFiles
from raft_service.rpc.tls import channel_credentials, server_credentials

# Largest message either way. A task's payload is at most 1 MiB and batches are cut at 4 MiB, so 16 MiB is never met by
# a well-behaved part.
MESSAGE_BYTES_MAX = 16 << 20
# Where a sender cuts a batch. Small enough that one batch does not hold up the next request for long.
BATCH_BYTES_MAX = 4 << 20

# Trailing metadata key that tells a refused caller where the leader is.
LEADER_KEY = "orchestrator-leader"

_SIZES = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
]

CHANNEL_OPTIONS = [
    *_SIZES,
    # A connection of its own for each channel, so that a large answer on one never sits before a heartbeat on another.
    ("grpc.use_local_subchannel_pool", 1),
    # Between machines of one cluster there is no proxy; the variables of a shell must not put one there.
    ("grpc.enable_http_proxy", 0),
    # gRPC's own first pause is a second, longer than our elections.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

SERVER_OPTIONS = [
    *_SIZES,
    # Without this Linux lets a second process listen on the same port and deals out the connections between the two.
    ("grpc.so_reuseport", 0),
]


def open_channel(address: str, tls: TlsFiles | None) -> grpc.aio.Channel:
    """A channel to host:port or unix:path; connects on first use.

    Raises:
        OSError: a TLS file cannot be read.
    """
    if tls is None or address.startswith("unix:"):
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=CHANNEL_OPTIONS)


def listen(server: grpc.aio.Server, address: str, tls: TlsFiles | None) -> int:
    """Binds a server to host:port or unix:path and returns the port (1 for a Unix socket).

    Raises:
        RuntimeError: the address is in use or not ours.
        OSError: a TLS file cannot be read.
    """
    if tls is None or address.startswith("unix:"):
        return server.add_insecure_port(address)
    return server.add_secure_port(address, server_credentials(tls))

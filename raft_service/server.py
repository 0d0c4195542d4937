"""One node of the control plane as a process: its parts, their order of start and stop, and the command line."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import sys
from pathlib import Path

import click
import grpc.aio
from google.protobuf.internal import api_implementation

from raft_service import __version__
from raft_service import log as logs
from raft_service.config import ConfigError, NodeSettings, is_local, load, split_address
from raft_service.debug_page import debug_app, metrics_app
from raft_service.driver import RaftDriver
from raft_service.http_server import HttpServer, PortInUse, bound
from raft_service.leader import Leader
from raft_service.leadership import Leadership
from raft_service.machine import LedgerMachine
from raft_service.metrics import Metrics
from raft_service.node_status import NodeStatus
from raft_service.rpc import stubs
from raft_service.rpc.admin_service import AdminService
from raft_service.rpc.channel import SERVER_OPTIONS, listen
from raft_service.rpc.peers import PeerTransport
from raft_service.rpc.session import SessionService
from raft_service.rpc.worker_service import WorkerService
from raft_service.scheduler.snapshot import UnknownSnapshot
from raft_service.storage.errors import StorageError

log = logging.getLogger(__name__)

# How long open calls may take when the node ends; sessions are redirected at once, so this is for the rest.
SERVER_GRACE_S = 0.5
# The writer thread and the loop take turns at Python's lock; the default of 5 ms is longer than a quorum round.
SWITCH_INTERVAL_S = 0.0005
EXIT_USAGE = 2


class Node:
    """A control-plane node in the running event loop."""

    def __init__(self, settings: NodeSettings) -> None:
        """Builds the parts; touches neither disk nor network."""
        self.settings = settings
        self.metrics = Metrics()
        self.machine = LedgerMachine()
        self._transport = PeerTransport(settings)
        self.driver = RaftDriver(settings, self.machine, self._transport)
        self.leadership = Leadership(
            node_id=settings.me.node_id, driver=self.driver, make_leader=self._make_leader, metrics=self.metrics
        )
        self.status = NodeStatus(
            settings=settings,
            driver=self.driver,
            machine=self.machine,
            leadership=self.leadership,
            metrics=self.metrics,
        )
        # Where it serves, host:port or unix:path; set by start.
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self._metrics_http: HttpServer | None = None
        self._debug_http: HttpServer | None = None
        self._looking: asyncio.Task[None] | None = None
        self._is_started = False

    def _make_leader(self) -> Leader:
        return Leader(settings=self.settings, driver=self.driver, machine=self.machine, metrics=self.metrics)

    @property
    def metrics_port(self) -> int:
        """Port of the metrics; -1 when none are served."""
        return self._metrics_http.port if self._metrics_http is not None else -1

    @property
    def debug_http_port(self) -> int:
        """Port of the page; -1 when none is served."""
        return self._debug_http.port if self._debug_http is not None else -1

    @property
    def debug_address(self) -> str:
        """host:port of the page; empty when none is served."""
        return f"{self._http_host}:{self.debug_http_port}" if self._debug_http is not None else ""

    async def start(self) -> None:
        """Takes the ports, reads the disk and begins to take part.

        Raises:
            PortInUse: one of the ports is taken.
            StorageError, UnknownSnapshot: the data directory cannot be used.
            ConfigError: a TLS file cannot be read.
        """
        try:
            self._open_ports()
            await self.driver.start()
        except BaseException:
            await self._close_ports()
            raise
        self._is_started = True
        assert self._server is not None
        await self._server.start()
        self._looking = asyncio.create_task(self.leadership.run(), name="leadership")
        for http in (self._metrics_http, self._debug_http):
            if http is not None:
                await http.start()
        log.info("node serves; address=%s data=%s", self.address, self.settings.data_dir)

    def _open_ports(self) -> None:
        settings, host = self.settings, self._http_host
        self._server = self._make_server()
        self.address = self._listen(self._server)
        if settings.metrics_port >= 0:
            app = metrics_app(self.status)
            self._metrics_http = HttpServer(app, host=host, port=settings.metrics_port, variable="METRICS_PORT")
        if settings.debug_http_port >= 0:
            page = debug_app(self.status)
            self._debug_http = HttpServer(page, host=host, port=settings.debug_http_port, variable="DEBUG_HTTP_PORT")

    @property
    def _http_host(self) -> str:
        """Pages have no TLS: they stay on loopback as long as the node itself does."""
        return "127.0.0.1" if is_local(self.settings.bind_address) else "0.0.0.0"

    def _make_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        self._transport.add_to(server)
        sessions = SessionService(self.leadership, self.metrics, node_name=self.settings.node_name)
        stubs.add_task_service(sessions, server)
        stubs.add_worker_service(WorkerService(self.leadership), server)
        admin = AdminService(
            leadership=self.leadership,
            driver=self.driver,
            members=self.settings.members,
            status=self.status.message,
        )
        stubs.add_admin_service(admin, server)
        return server

    def _listen(self, server: grpc.aio.Server) -> str:
        """Binds the gRPC port and returns the address with the port that it got."""
        address = self.settings.bind_address
        if not address.startswith("unix:"):
            host, port = split_address(address)
            # Asked first with a plain socket, for gRPC answers a taken port with a page of its own.
            bound(host, port, "RAFT_LISTEN_ADDR or RAFT_PEERS").close()
        try:
            port = listen(server, address, self.settings.tls)
        except (RuntimeError, OSError) as error:
            raise PortInUse(f"Cannot listen on {address} ({error}); correct RAFT_LISTEN_ADDR or RAFT_PEERS.") from None
        return address if address.startswith("unix:") else f"{split_address(address)[0]}:{port}"

    async def stop(self) -> None:
        """Hands leadership over if this node has it, redirects its clients, and ends."""
        if self._is_started:
            self._is_started = False
            await self.driver.stop()
        await self._close_ports()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self.leadership.close()

    async def _close_ports(self) -> None:
        if self._server is not None:
            await self._server.stop(SERVER_GRACE_S)
        for http in (self._metrics_http, self._debug_http):
            if http is not None:
                await http.stop()
        self._server = self._metrics_http = self._debug_http = None

    def ready_line(self) -> str:
        """The JSON line that says that the node serves."""
        return json.dumps(
            {
                "ready": True,
                "role": "node",
                "name": self.settings.node_name,
                "address": self.address,
                "metrics_port": self.metrics_port,
                "debug_http_port": self.debug_http_port,
            }
        )


async def _serve(settings: NodeSettings) -> None:
    """Runs a node until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    node = Node(settings)
    await node.start()
    # Left out of later collections: a full one over a large ledger takes longer than an election.
    gc.collect()
    gc.freeze()
    print(node.ready_line(), flush=True)
    await stop.wait()
    log.info("stopping")
    await node.stop()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orchestrator-node")
@click.option("--name", help="Name of this node; default: RAFT_NODE_NAME.")
@click.option("--peers", metavar="NAME=HOST:PORT,...", help="All nodes, this one too; default: RAFT_PEERS.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Log and snapshots; default: RAFT_DATA_DIR.")
@click.option(
    "--listen", "listen_addr", metavar="HOST:PORT", help="Where to listen; default: the own entry in --peers."
)
@click.option("--metrics-port", type=int, help="0: any free port, -1: none; default: METRICS_PORT.")
@click.option("--debug-http-port", type=int, help="0: any free port, -1: none; default: DEBUG_HTTP_PORT.")
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True, help="How much to say.")
def main(
    name: str | None,
    peers: str | None,
    data_dir: Path | None,
    listen_addr: str | None,
    metrics_port: int | None,
    debug_http_port: int | None,
    log_level: str,
) -> None:
    """Run one node of the control plane until SIGTERM.

    Options win over the environment, which wins over .env. When it serves, the node prints one line of JSON.

    \b
    Example, a control plane of one on this machine:
      orchestrator-node --name cp-1 --peers cp-1=127.0.0.1:50051 --data-dir /tmp/cp-1
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        settings = load(
            NodeSettings,
            node_name=name,
            peers=peers,
            data_dir=data_dir,
            listen_addr=listen_addr,
            metrics_port=metrics_port,
            debug_http_port=debug_http_port,
        )
        logs.configure(role="node", name=settings.node_name, level=log_level)
        if api_implementation.Type() != "upb":
            log.warning("protobuf runs without its C library and is fifty times slower; reinstall it")
        asyncio.run(_serve(settings))
    except (ConfigError, PortInUse, StorageError, UnknownSnapshot) as error:
        click.echo(f"orchestrator-node: {error}", err=True)
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()

"""The worker's pages: health, readiness and status for people and probes, metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, make_asgi_app

from raft_service.config import ConfigError
from raft_service.http_server import HttpServer, PortInUse


class Pages:
    """The HTTP servers of one worker."""

    def __init__(
        self, *, status: Callable[[], dict[str, Any]], unready_reason: Callable[[], str], registry: CollectorRegistry
    ) -> None:
        """`unready_reason` answers why no work can be taken now, or "" when it can."""
        self._status = status
        self._unready_reason = unready_reason
        self._registry = registry
        self._servers: list[HttpServer] = []
        # Ports that were taken; -1: not served.
        self.debug_http_port = -1
        self.metrics_port = -1

    async def start(self, *, host: str, debug_http_port: int, metrics_port: int) -> None:
        """Serves on these ports; 0 takes a free one, -1 serves none.

        Raises:
            ConfigError: a port is taken.
        """
        self.debug_http_port = self._serve(self._app(), host, debug_http_port, "DEBUG_HTTP_PORT")
        metrics = make_asgi_app(registry=self._registry)
        self.metrics_port = self._serve(metrics, host, metrics_port, "METRICS_PORT")
        for server in self._servers:
            await server.start()

    def _serve(self, app: Any, host: str, port: int, variable: str) -> int:
        """The port that was taken, or -1."""
        if port < 0:
            return -1
        try:
            server = HttpServer(app, host=host, port=port, variable=variable)
        except PortInUse as error:
            raise ConfigError(str(error)) from None
        self._servers.append(server)
        return server.port

    async def stop(self) -> None:
        """Ends all servers."""
        for server in self._servers:
            await server.stop()

    def _app(self) -> FastAPI:
        app = FastAPI(title="orchestrator worker", docs_url=None, redoc_url=None)

        @app.get("/healthz")
        async def healthz() -> PlainTextResponse:
            return PlainTextResponse("ok\n")

        @app.get("/readyz")
        async def readyz() -> PlainTextResponse:
            reason = self._unready_reason()
            return PlainTextResponse(f"{reason or 'ready'}\n", status_code=503 if reason else 200)

        @app.get("/status")
        async def status() -> JSONResponse:
            return JSONResponse(self._status())

        return app

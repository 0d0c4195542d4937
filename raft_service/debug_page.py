"""The node's pages: health, readiness, status as JSON, and one live page for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from raft_service.node_status import NodeStatus

PAGE = Path(__file__).with_name("debug_page.html")


def debug_app(status: NodeStatus) -> FastAPI:
    """/healthz, /readyz, /status and the page at /."""
    app = FastAPI(title="control-plane node", docs_url=None, redoc_url=None, openapi_url=None)
    page = PAGE.read_text(encoding="utf-8")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process runs and its loop turns."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """This node leads or knows who does; 503 otherwise."""
        is_ready = status.is_ready
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    @app.get("/status")
    async def show_status() -> dict[str, Any]:
        """Everything that the page shows."""
        return status.page()

    @app.get("/", response_class=HTMLResponse)
    async def show_page() -> str:
        """The live page."""
        return page

    return app


def metrics_app(status: NodeStatus) -> FastAPI:
    """/metrics for Prometheus."""
    app = FastAPI(title="metrics", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/metrics")
    async def metrics() -> Response:
        """All metrics in text format."""
        return Response(status.metrics_text(), media_type=CONTENT_TYPE_LATEST)

    return app

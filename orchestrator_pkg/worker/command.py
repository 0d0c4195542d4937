"""The command line of a worker: options over the settings, signals, exit status."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from typing import Any

import click

from orchestrator_pkg.config import ConfigError, WorkerSettings, load
from orchestrator_pkg.worker.agent import DEFAULT_HANDLER, WorkerAgent
from raft_service import log
from raft_service.rpc.client import RequestRefused

logger = logging.getLogger(__name__)

EXIT_BAD_CONFIG = 2
# SIGINT is a person at a terminal who does not want to wait.
INTERRUPT_DEADLINE_S = 2.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--name", help="Unique in the cluster; default: WORKER_NAME, or host name and process id.")
@click.option("--cloud-tag", help="Cloud of this machine; default: WORKER_CLOUD_TAG, or aws.")
@click.option("--address", "orchestrator_addr", metavar="HOST:PORT,...", help="Nodes; default: ORCHESTRATOR_ADDR.")
@click.option("--labels", metavar="KEY=VALUE,...", help="More labels; default: WORKER_LABELS.")
@click.option("--pools", metavar="NAME=AMOUNT,...", help="Named pools it brings; default: WORKER_POOLS.")
@click.option("--run-slots", type=int, help="Slots that orchestrate runs; default: WORKER_RUN_SLOTS, or 2.")
@click.option("--step-slots", type=int, help="Slots that execute steps; default: WORKER_STEP_SLOTS, or 2.")
@click.option("--gpus", type=int, help="GPUs to offer, -1: all that torch sees; default: WORKER_GPUS.")
@click.option("--preload", metavar="MODULE,...", help="Imported by each slot at start; default: WORKER_PRELOAD.")
@click.option("--metrics-port", type=int, help="0: a free one, -1: none; default: METRICS_PORT, or 9090.")
@click.option("--debug-http-port", type=int, help="0: a free one, -1: none; default: DEBUG_HTTP_PORT, or 8080.")
@click.option(
    "--drain-deadline-s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="How long SIGTERM waits for running attempts before it kills them.",
)
@click.option("--handler", default=DEFAULT_HANDLER, hidden=True, help="Executes attempts in the slots.")
def worker_command(*, drain_deadline_s: float, handler: str, **overrides: Any) -> None:
    """Offer this machine's slots and GPUs to the control plane, until SIGTERM (drains) or SIGINT (quickly)."""
    try:
        settings = load(WorkerSettings, **overrides)
        asyncio.run(_run(settings, handler=handler, drain_deadline_s=drain_deadline_s))
    except (ConfigError, RequestRefused) as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_BAD_CONFIG)


async def _run(settings: WorkerSettings, *, handler: str, drain_deadline_s: float) -> None:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    agent = WorkerAgent(settings, handler=handler)
    log.configure(role="worker", name=agent.worker_id)
    started = asyncio.create_task(agent.start())
    asked = asyncio.create_task(signals.get())
    await asyncio.wait({started, asked}, return_when=asyncio.FIRST_COMPLETED)
    if not started.done():
        # Not registered yet: there is nothing to drain. The slots end with this process.
        started.cancel()
        return
    await started
    print(json.dumps(agent.ready_line()), flush=True)
    number = await asked
    deadline_s = drain_deadline_s if number == signal.SIGTERM else INTERRUPT_DEADLINE_S
    logger.info("%s: the worker drains for at most %g s; a second signal ends it at once", number.name, deadline_s)
    drained = asyncio.create_task(agent.drain(deadline_s=deadline_s))
    again = asyncio.create_task(signals.get())
    await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
    drained.cancel()
    again.cancel()
    await agent.stop()

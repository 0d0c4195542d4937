"""The `orchestrator` command: look at the control plane, steer it, start its parts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from orchestrator_proto import ledger_pb2
from raft_service import __version__
from raft_service.config import ClientSettings, ConfigError, load
from raft_service.rpc.client import Client, ControlPlaneUnavailable, RequestRefused

# How long a command for people waits before it says that nobody answers.
DEADLINE_S = 10.0

TASK_STATES = {value: name.removeprefix("TASK_STATE_").lower() for name, value in ledger_pb2.TaskState.items()}
WORKER_STATES = {value: name.removeprefix("WORKER_STATE_").lower() for name, value in ledger_pb2.WorkerState.items()}
ENDED = ("succeeded", "failed", "canceled")

console = Console()


def _expected_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turns the errors that a user can cure into one sentence and exit status 1."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ConfigError, ControlPlaneUnavailable, RequestRefused) as error:
            raise click.ClickException(str(error)) from None

    return run


def _client(address: str | None) -> Client:
    settings = load(ClientSettings, orchestrator_addr=address)
    if not settings.endpoints:
        raise ConfigError(
            "No control plane is configured; set ORCHESTRATOR_ADDR=host:port or give --address. "
            "(Without one, Dagster processes share an embedded control plane; its address is in "
            "$DAGSTER_HOME/orchestrator/address.)"
        )
    return Client(settings.endpoints, name="cli", tls=settings.tls, deadline_s=DEADLINE_S)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _as_dict(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def _print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table)


address_option = click.option(
    "--address", metavar="HOST:PORT,...", help="Control-plane nodes to ask; default: ORCHESTRATOR_ADDR."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orchestrator")
def main() -> None:
    """Look at and steer the control plane that places Dagster runs and steps.

    \b
    Examples:
      orchestrator status
      orchestrator tasks --state queued
      orchestrator why step/6f1c.../lineitem_map/0
      orchestrator drain worker-aws-1
    """


@main.command()
@address_option
@json_option
@_expected_errors
def status(address: str | None, as_json: bool) -> None:
    """Show every node: role, term, log, members, counts. Exit status 1 when no node leads."""
    with _client(address) as client:
        answers = client.statuses()
    leads = any(not isinstance(answer, str) and answer.role == answer_role("LEADER") for _, answer in answers)
    if as_json:
        _print_json(
            [
                {"endpoint": endpoint, "error": answer}
                if isinstance(answer, str)
                else {"endpoint": endpoint, **_as_dict(answer)}
                for endpoint, answer in answers
            ]
        )
    else:
        _print_statuses(answers)
    if not leads:
        raise ControlPlaneUnavailable(
            "No node leads; most of the members must be up and reach each other. Start those that are down."
        )


def answer_role(name: str) -> int:
    """The number of a role of admin.proto by its short name."""
    from orchestrator_proto import admin_pb2

    return admin_pb2.NodeRole.Value(f"NODE_ROLE_{name}")


def _print_statuses(answers: Sequence[tuple[str, Any]]) -> None:
    from orchestrator_proto import admin_pb2

    rows = []
    for endpoint, answer in answers:
        if isinstance(answer, str):
            rows.append(("-", endpoint, "unreachable", "", "", "", answer))
            continue
        role = admin_pb2.NodeRole.Name(answer.role).removeprefix("NODE_ROLE_").lower()
        counts = ", ".join(f"{count} {state}" for state, count in sorted(answer.tasks.items()) if count)
        workers = ", ".join(f"{count} {state}" for state, count in sorted(answer.workers.items()) if count)
        log = f"{answer.first_index}..{answer.last_index}, applied {answer.applied_index}"
        rows.append((answer.name, endpoint, role, str(answer.term), log, workers or "none", counts or "none"))
    _print_table("Control plane", ("node", "address", "role", "term", "log", "workers", "tasks"), rows)


@main.command()
@address_option
@json_option
@_expected_errors
def members(address: str | None, as_json: bool) -> None:
    """Show the members as the leader sees them: who votes, how far each one's log is."""
    with _client(address) as client:
        answers = [answer for _, answer in client.statuses() if not isinstance(answer, str)]
    leader = next((answer for answer in answers if answer.role == answer_role("LEADER")), None)
    if leader is None:
        raise ControlPlaneUnavailable("No node leads, so nobody can tell; see `orchestrator status`.")
    if as_json:
        _print_json([_as_dict(member) for member in leader.members])
        return
    _print_table(
        f"Members (leader {leader.name}, term {leader.term})",
        ("id", "node", "address", "votes", "log index", "active"),
        (
            (
                str(member.node_id),
                member.name,
                member.address,
                "yes" if member.is_voter else "no",
                str(member.match_index),
                "yes" if member.is_recently_active else "no",
            )
            for member in leader.members
        ),
    )


@main.command()
@address_option
@json_option
@_expected_errors
def workers(address: str | None, as_json: bool) -> None:
    """Show the workers: cloud, state, slots in use, what is left of the lease."""
    with _client(address) as client:
        views = client.list_workers()
    if as_json:
        _print_json([_as_dict(view) for view in views])
        return
    _print_table(
        "Workers",
        ("worker", "cloud", "state", "run slots", "step slots", "GPUs", "lease left"),
        (_worker_row(view) for view in views),
    )


def _worker_row(view: Any) -> tuple[str, ...]:
    registration, used, capacity = view.record.registration, view.used, view.record.registration.capacity
    return (
        registration.worker_id,
        registration.labels["cloud"],
        WORKER_STATES[view.record.state],
        f"{used.run_slots}/{capacity.run_slots}",
        f"{used.step_slots}/{capacity.step_slots}",
        f"{used.gpus}/{capacity.gpus}",
        f"{view.lease_left_ms / 1000:.1f} s",
    )


@main.command()
@address_option
@json_option
@click.option("--state", type=click.Choice(["queued", "placed", *ENDED]), help="Only tasks in this state.")
@click.option("--prefix", default="", help="Only tasks whose id starts so, such as step/RUN_ID/.")
@click.option("--limit", default=100, show_default=True, help="At most so many.")
@_expected_errors
def tasks(address: str | None, as_json: bool, state: str | None, prefix: str, limit: int) -> None:
    """Show the tasks: Dagster runs and steps, where they are placed and why they wait."""
    with _client(address) as client:
        views = client.task_status(prefix=prefix, limit=limit)
    views = [view for view in views if state is None or TASK_STATES[view.state] == state]
    if as_json:
        _print_json([_as_dict(view) for view in views])
        return
    _print_table("Tasks", ("task", "state", "attempts", "worker", "waits because"), (_task_row(view) for view in views))


def _task_row(view: Any) -> tuple[str, ...]:
    last = view.attempts[-1].worker_id if view.attempts else ""
    return (
        view.spec.task_id,
        TASK_STATES[view.state],
        str(len(view.attempts)),
        last,
        view.waiting_reason,
    )


@main.command()
@click.argument("task_id", metavar="TASK")
@address_option
@json_option
@_expected_errors
def why(task_id: str, address: str | None, as_json: bool) -> None:
    """Tell in words where TASK stands and why.

    \b
    Example:
      orchestrator why run/6f1c0c52-...
    """
    with _client(address) as client:
        (view,) = client.task_status(task_ids=[task_id])
    if view.state == ledger_pb2.TASK_STATE_UNSPECIFIED:
        raise RequestRefused(
            f"No task {task_id!r} is known; ended tasks are forgotten after a while. See `orchestrator tasks`."
        )
    if as_json:
        _print_json(_as_dict(view))
        return
    console.print(f"{task_id} is {TASK_STATES[view.state]}.")
    if view.waiting_reason:
        console.print(f"It waits: {view.waiting_reason}.")
    if view.result.error:
        console.print(f"It failed: {view.result.error}")
    for attempt in view.attempts:
        state = ledger_pb2.AttemptState.Name(attempt.state).removeprefix("ATTEMPT_STATE_").lower()
        reason = f": {attempt.reason}" if attempt.reason else ""
        console.print(f"  attempt {attempt.number} on {attempt.worker_id}, {state}{reason}")


@main.command()
@click.argument("task_ids", metavar="TASK...", nargs=-1, required=True)
@click.option("--reason", default="canceled by hand", show_default=True, help="For people.")
@address_option
@_expected_errors
def cancel(task_ids: tuple[str, ...], reason: str, address: str | None) -> None:
    """Cancel tasks. To cancel a Dagster run, use the Dagster UI: it also ends the run's record."""
    with _client(address) as client:
        canceled = client.cancel_tasks(task_ids=task_ids, reason=reason)
    console.print(f"{canceled} of {len(task_ids)} canceled; the others had ended or are unknown.")


@main.command()
@click.argument("worker_id", metavar="WORKER")
@click.option("--undo", is_flag=True, help="Take it back into service.")
@address_option
@_expected_errors
def drain(worker_id: str, undo: bool, address: str | None) -> None:
    """Give WORKER nothing new; what it has may finish."""
    with _client(address) as client:
        client.drain_worker(worker_id, undo=undo)
    console.print(f"{worker_id} is {'back in service' if undo else 'draining'}.")


@main.command("transfer-leader")
@click.option("--to", default="", metavar="NODE", help="Who shall lead; default: the node that is furthest.")
@address_option
@_expected_errors
def transfer_leader(to: str, address: str | None) -> None:
    """Move leadership without waiting for a timeout."""
    with _client(address) as client:
        leader = client.transfer_leader(to)
    console.print(f"{leader} leads.")


_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


@main.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def node(arguments: tuple[str, ...]) -> None:
    """Run one control-plane node (see `orchestrator node --help`)."""
    from raft_service.server import main as run_node

    run_node(args=list(arguments), prog_name="orchestrator node")


@main.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Run the worker of this machine (see `orchestrator worker --help`)."""
    from orchestrator_pkg.worker.command import worker_command

    worker_command(args=list(arguments), prog_name="orchestrator worker")


@main.command(context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Run the shipped pipelines on a local cluster and kill its leader (see `orchestrator demo --help`)."""
    from orchestrator_pkg.demo.__main__ import main as run_demo

    run_demo(args=list(arguments), prog_name="orchestrator demo")


if __name__ == "__main__":
    sys.exit(main())

"""The interpreter of interaction scenarios: nodes, a list of messages on their way, and a command for each move."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from raft_scenario_file import Command
from raft_scenario_text import ROLE, entry_text, message_name, message_text, ready_text

from raft_service.raft.config import UNLIMITED, Config
from raft_service.raft.errors import RaftError
from raft_service.raft.log_storage import MemoryLogStorage
from raft_service.raft.messages import (
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    Snapshot,
    SnapshotMetadata,
)
from raft_service.raft.raw_node import RawNode
from raft_service.testing.conf_change_text import conf_change, decode_conf_change, encode_conf_change

LEVELS = ("debug", "info", "warn", "error", "fatal", "none")
_LOG_LINE = re.compile(r"^\s*(DEBUG|INFO|WARN|ERROR|FATAL) ")
MESSAGE_TYPES = {message_name(kind): kind for kind in MessageType}


def without_log_lines(text: str) -> str:
    """Output without the wording of logs, which is each implementation's own."""
    kept = "\n".join(line.rstrip() for line in text.split("\n") if not _LOG_LINE.match(line))
    return kept or "ok"


class HistoryStorage(MemoryLogStorage):
    """A log whose snapshot is always the state machine's latest state."""

    def __init__(self, history: list[Snapshot]) -> None:
        super().__init__()
        self.history = history

    def snapshot(self) -> Snapshot:
        return self.history[-1]


@dataclass
class Node:
    """A node with its disk and the states that its state machine went through (it joins all data)."""

    raw: RawNode
    storage: HistoryStorage
    config: Config
    history: list[Snapshot] = field(default_factory=list)

    def apply(self, entry: Entry) -> None:
        last = self.history[-1]
        conf_state = last.metadata.conf_state
        data = entry.data
        if entry.type is EntryType.CONF_CHANGE:
            conf_state = self.raw.apply_conf_change(decode_conf_change(entry.data))
            data = b""
        metadata = SnapshotMetadata(conf_state, entry.index, entry.term)
        self.history.append(Snapshot(metadata, last.data + data))


class Interpreter:
    """Runs the commands of one file. Errors of the core are printed, as its callers would see them."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.messages: list[Message] = []
        self.is_quiet = False
        self._lines: list[str] = []
        self._indent = ""

    def handle(self, command: Command) -> str:
        """Output of a command; `ok` when it has none."""
        handler = COMMANDS.get(command.name)
        if handler is None:
            return f"unknown command {command.name}"
        self._lines = []
        try:
            handler(self, command)
        except RaftError as error:
            if self.is_quiet:
                return str(error)
            self.write(str(error))
        return "\n".join(self._lines) or "ok"

    def write(self, text: str) -> None:
        if not self.is_quiet:
            self._lines += [self._indent + line for line in text.split("\n")]

    def node(self, node_id: int | str) -> Node:
        return self.nodes[int(node_id) - 1]

    def selected(self, command: Command) -> list[Node]:
        ids = command.plain()
        return [self.node(node_id) for node_id in ids] if ids else self.nodes

    # Nodes

    def log_level(self, command: Command) -> None:
        level = command.plain()[0].lower()
        if level not in LEVELS:
            self.write(f"log levels must be one of {LEVELS}")
        self.is_quiet = level == "none"

    def add_nodes(self, command: Command) -> None:
        index = int(command.one("index", "0"))
        conf_state = ConfState(voters=_ids(command, "voters"), learners=_ids(command, "learners"))
        snapshot = Snapshot(SnapshotMetadata(conf_state, index, 1 if index else 0), command.one("content").encode())
        for _ in range(int(command.plain()[0])):
            history = [snapshot]
            storage = HistoryStorage(history)
            if index:
                storage.apply_snapshot(snapshot)
            config = _config(command, len(self.nodes) + 1)
            self.nodes.append(Node(RawNode(config, storage), storage, config, history))

    def compact(self, command: Command) -> None:
        node_id, index = command.plain()
        self.node(node_id).storage.compact(int(index))
        self._write_log(self.node(node_id))

    # Input

    def campaign(self, command: Command) -> None:
        self.node(command.plain()[0]).raw.campaign()

    def propose(self, command: Command) -> None:
        node_id, data = command.plain()
        self.node(node_id).raw.propose(data.encode())

    def propose_conf_change(self, command: Command) -> None:
        change = conf_change(command.input, command.one("transition", "auto"))
        data = encode_conf_change(change, version=1 if _flag(command, "v1") else 2)
        self.node(command.plain()[0]).raw.propose_conf_change(change, data)

    def tick_election(self, command: Command) -> None:
        node = self.node(command.plain()[0])
        for _ in range(node.config.election_tick):
            node.raw.tick()

    def tick_heartbeat(self, command: Command) -> None:
        node = self.node(command.plain()[0])
        for _ in range(node.config.heartbeat_tick):
            node.raw.tick()

    def set_election_timeout(self, command: Command) -> None:
        self.node(command.plain()[0]).raw._core.randomized_election_timeout = int(command.one("timeout"))

    def transfer_leadership(self, command: Command) -> None:
        self.node(command.one("from")).raw.transfer_leader(int(command.one("to")))

    def forget_leader(self, command: Command) -> None:
        self.node(command.plain()[0]).raw.forget_leader()

    def read_index(self, command: Command) -> None:
        node_id, context = command.plain()
        self.node(node_id).raw.read_index(context.encode())

    def report_unreachable(self, command: Command) -> None:
        node_id, other = command.plain()
        self.node(node_id).raw.report_unreachable(int(other))

    def send_snapshot(self, command: Command) -> None:
        sender, receiver = map(int, command.plain())
        node = self.node(sender)
        message = Message(
            MessageType.MSG_SNAP, to=receiver, from_=sender, term=node.raw.term, snapshot=node.storage.snapshot()
        )
        self.messages.append(message)
        self.write(message_text(message))

    # Movement

    def process_ready(self, command: Command) -> None:
        nodes = self.selected(command)
        for node in nodes:
            if len(nodes) > 1:
                self.write(f"> {node.raw.id} handling Ready")
                self._indented(lambda node=node: self._process_ready(node))
            else:
                self._process_ready(node)

    def _process_ready(self, node: Node) -> None:
        ready = node.raw.ready()
        self.write(ready_text(ready))
        if ready.hard_state is not None:
            node.storage.set_hard_state(ready.hard_state)
        node.storage.append(ready.entries)
        if ready.snapshot is not None:
            node.storage.apply_snapshot(ready.snapshot)
            node.history.append(ready.snapshot)
        for entry in ready.committed_entries:
            node.apply(entry)
        self.messages += ready.messages
        node.raw.advance()

    def deliver(self, command: Command) -> None:
        kind = MESSAGE_TYPES[command.one("type")] if command.has("type") else None
        count = 0
        for arg in command.args:
            if not arg.values:
                count += self._deliver_to(int(arg.key), kind=kind, is_dropped=False)
            for node_id in arg.values if arg.key == "drop" else ():
                count += self._deliver_to(int(node_id), kind=kind, is_dropped=True)
        if not count:
            self.write("no messages")

    def _deliver_to(self, node_id: int, *, kind: MessageType | None, is_dropped: bool) -> int:
        def is_meant(message: Message) -> bool:
            return message.to == node_id and (kind is None or message.type is kind)

        taken = [message for message in self.messages if is_meant(message)]
        self.messages = [message for message in self.messages if not is_meant(message)]
        for message in taken:
            self.write(("dropped: " if is_dropped else "") + message_text(message))
            if is_dropped:
                continue
            try:
                self.node(node_id).raw.step(message)
            except RaftError as error:
                self.write(str(error))
        return len(taken)

    def stabilize(self, command: Command) -> None:
        was_quiet = self.is_quiet
        if command.has("log-level"):
            self.is_quiet = command.one("log-level").lower() == "none"
        nodes = self.selected(command)
        while self._stabilize_once(nodes):
            pass
        self.is_quiet = was_quiet

    def _stabilize_once(self, nodes: Iterable[Node]) -> bool:
        has_moved = False
        for node in nodes:
            if node.raw.has_ready():
                self.write(f"> {node.raw.id} handling Ready")
                self._indented(lambda node=node: self._process_ready(node))
                has_moved = True
        for node in nodes:
            node_id = node.raw.id
            if any(message.to == node_id for message in self.messages):
                self.write(f"> {node_id} receiving messages")
                self._indented(lambda node_id=node_id: self._deliver_to(node_id, kind=None, is_dropped=False))
                has_moved = True
        return has_moved

    def _indented(self, action: Callable[[], object]) -> None:
        self._indent += "  "
        try:
            action()
        finally:
            self._indent = self._indent[:-2]

    # Looking

    def raft_state(self, _command: Command) -> None:
        for node in self.nodes:
            status = node.raw.status()
            voter = "Voter" if status.id in status.config.voters.ids() else "Non-Voter"
            self.write(f"{status.id}: {ROLE[status.role]} ({voter}) Term:{status.term} Lead:{status.lead}")

    def status(self, command: Command) -> None:
        for node_id, progress in self.node(command.plain()[0]).raw.status().progress.items():
            self.write(f"{node_id}: {progress}")

    def raft_log(self, command: Command) -> None:
        self._write_log(self.node(command.plain()[0]))

    def _write_log(self, node: Node) -> None:
        storage = node.storage
        first, last = storage.first_index(), storage.last_index()
        if last < first:
            self.write(f"log is empty: first index={first}, last index={last}")
            return
        for entry in storage.entries(first, last + 1, UNLIMITED):
            self.write(entry_text(entry))


def _ids(command: Command, key: str) -> tuple[int, ...]:
    return tuple(map(int, command.values(key)))


def _flag(command: Command, key: str) -> bool:
    return command.one(key) == "true"


def _config(command: Command, node_id: int) -> Config:
    return Config(
        id=node_id,
        randrange=lambda _count: 0,
        election_tick=3,
        heartbeat_tick=1,
        max_size_per_msg=UNLIMITED,
        max_inflight_msgs=int(command.one("inflight", "2147483647")),
        max_uncommitted_bytes=UNLIMITED,
        max_committed_bytes=int(command.one("max-committed-size-per-ready", str(UNLIMITED))),
        check_quorum=_flag(command, "checkquorum"),
        pre_vote=_flag(command, "prevote"),
        commit_in_votes=False,
        step_down_on_removal=_flag(command, "step-down-on-removal"),
        disable_conf_change_validation=_flag(command, "disable-conf-change-validation"),
    )


COMMANDS: dict[str, Callable[[Interpreter, Command], None]] = {
    "log-level": Interpreter.log_level,
    "add-nodes": Interpreter.add_nodes,
    "compact": Interpreter.compact,
    "campaign": Interpreter.campaign,
    "propose": Interpreter.propose,
    "propose-conf-change": Interpreter.propose_conf_change,
    "tick-election": Interpreter.tick_election,
    "tick-heartbeat": Interpreter.tick_heartbeat,
    "set-randomized-election-timeout": Interpreter.set_election_timeout,
    "transfer-leadership": Interpreter.transfer_leadership,
    "forget-leader": Interpreter.forget_leader,
    "read-index": Interpreter.read_index,
    "report-unreachable": Interpreter.report_unreachable,
    "send-snapshot": Interpreter.send_snapshot,
    "process-ready": Interpreter.process_ready,
    "deliver-msgs": Interpreter.deliver,
    "stabilize": Interpreter.stabilize,
    "raft-state": Interpreter.raft_state,
    "status": Interpreter.status,
    "raft-log": Interpreter.raft_log,
}

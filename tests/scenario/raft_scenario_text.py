"""How messages, entries and Readies look in scenario files."""

from __future__ import annotations

import json

from raft_service.raft.messages import (
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    Role,
    Snapshot,
    SoftState,
)
from raft_service.raft.raw_node import Ready

ROLE = {
    Role.FOLLOWER: "StateFollower",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
    Role.PRE_CANDIDATE: "StatePreCandidate",
}


def message_name(kind: MessageType) -> str:
    """MSG_APP_RESP as `MsgAppResp`."""
    return "".join(word.capitalize() for word in kind.name.split("_"))


def entry_text(entry: Entry) -> str:
    """`term/index type data`. A membership change carries `version|transition|changes`."""
    head = f"{entry.term}/{entry.index} "
    if entry.type is EntryType.NORMAL:
        return f"{head}EntryNormal {json.dumps(entry.data.decode())}"
    version, _, rest = entry.data.decode().partition("|")
    changes = rest.partition("|")[2]
    name = "EntryConfChange" if version == "1" else "EntryConfChangeV2"
    return f"{head}{name} {changes}".rstrip()


def hard_state_text(state: HardState) -> str:
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def soft_state_text(state: SoftState) -> str:
    return f"Lead:{state.lead} State:{ROLE[state.role]}"


def _ids(ids: tuple[int, ...]) -> str:
    return "[" + " ".join(map(str, ids)) + "]"


def conf_state_text(state: ConfState) -> str:
    return (
        f"Voters:{_ids(state.voters)} VotersOutgoing:{_ids(state.voters_outgoing)} Learners:{_ids(state.learners)} "
        f"LearnersNext:{_ids(state.learners_next)} AutoLeave:{'true' if state.auto_leave else 'false'}"
    )


def snapshot_text(snapshot: Snapshot) -> str:
    metadata = snapshot.metadata
    return f"Index:{metadata.index} Term:{metadata.term} ConfState:{conf_state_text(metadata.conf_state)}"


def message_text(message: Message) -> str:
    """One message; several entries or a snapshot take lines of their own."""
    text = (
        f"{message.from_}->{message.to} {message_name(message.type)} Term:{message.term} "
        f"Log:{message.log_term}/{message.index}"
    )
    if message.reject:
        text += f" Rejected (Hint: {message.reject_hint})"
    if message.commit:
        text += f" Commit:{message.commit}"
    if message.vote:
        text += f" Vote:{message.vote}"
    if message.context and message.type in (MessageType.MSG_READ_INDEX, MessageType.MSG_READ_INDEX_RESP):
        text += f" Context:{message.context.decode()}"
    if len(message.entries) == 1:
        text += f" Entries:[{entry_text(message.entries[0])}]"
    elif message.entries:
        text += " Entries:[\n" + "".join(f"  {entry_text(entry)}\n" for entry in message.entries) + "]"
    if message.snapshot is not None and message.snapshot.metadata.index:
        text += f"\n  Snapshot: {snapshot_text(message.snapshot)}"
    return text


def ready_text(ready: Ready) -> str:
    """A Ready, its empty parts left out."""
    lines = []
    if ready.soft_state is not None:
        lines.append(soft_state_text(ready.soft_state))
    if ready.hard_state is not None:
        lines.append(f"HardState {hard_state_text(ready.hard_state)}")
    if ready.read_states:
        states = " ".join(f"{{{state.index} {state.request_ctx.decode()}}}" for state in ready.read_states)
        lines.append(f"ReadStates [{states}]")
    if ready.entries:
        lines += ["Entries:", *map(entry_text, ready.entries)]
    if ready.snapshot is not None:
        lines.append(f"Snapshot {snapshot_text(ready.snapshot)}")
    if ready.committed_entries:
        lines += ["CommittedEntries:", *map(entry_text, ready.committed_entries)]
    if ready.messages:
        lines += ["Messages:", *map(message_text, ready.messages)]
    if not lines:
        return "<empty Ready>"
    return "\n".join([f"Ready MustSync={'true' if ready.must_sync else 'false'}:", *lines])

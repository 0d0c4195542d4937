"""Membership changes as short text, for tests: `v1` adds a voter, `l2` a learner, `r3` removes, `u4` updates."""

from __future__ import annotations

from raft_service.raft.messages import ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType

_TYPES = {
    "v": ConfChangeType.ADD_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
    "r": ConfChangeType.REMOVE_NODE,
    "u": ConfChangeType.UPDATE_NODE,
}
_LETTERS = {kind: letter for letter, kind in _TYPES.items()}
TRANSITIONS = {
    "auto": ConfChangeTransition.AUTO,
    "implicit": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}
_NAMES = {transition: name for name, transition in TRANSITIONS.items()}


def parse_changes(text: str) -> tuple[ConfChangeSingle, ...]:
    """`v1 l2 r3 u4` as changes."""
    return tuple(ConfChangeSingle(_TYPES[word[0]], int(word[1:])) for word in text.split())


def conf_change(text: str, transition: str = "auto") -> ConfChange:
    """A change from words such as `v4 r1`; no words: leave the joint configuration."""
    return ConfChange(TRANSITIONS[transition], parse_changes(text))


def encode_conf_change(change: ConfChange, *, version: int = 2) -> bytes:
    """`version|transition|changes`; empty for leaving a joint configuration."""
    if not change.changes:
        return b""
    words = " ".join(f"{_LETTERS[single.type]}{single.node_id}" for single in change.changes)
    return f"{version}|{_NAMES[change.transition]}|{words}".encode()


def decode_conf_change(data: bytes) -> ConfChange:
    """The reverse of `encode_conf_change`."""
    if not data:
        return ConfChange()
    _, transition, words = data.decode().split("|")
    return conf_change(words, transition)

"""What the agent and a slot say to each other: length-prefixed JSON over a socket pair.

A frame is four bytes of length (big-endian) and a JSON object whose "type" names the message; its other keys are the
fields of the dataclass. JSON and not protobuf, for a slot must start fast and import nothing it can do without. The
conversation:

    slot                         agent
    SlotReady | StartFailed  ->
                             <-  Assign
    Started                  ->                 SIGINT is possible from here on
    Finish                   ->                 at most one of Finish and GiveBack
                             <-  FinishAnswer
    GiveBack                 ->
    Done                     ->                 ready for the next Assign, unless `recycle` says why not
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import struct
from dataclasses import dataclass

_LENGTH = struct.Struct(">I")
# A payload of the ledger is at most 1 MiB; escaped as a JSON string it grows sixfold in the worst case.
FRAME_BYTES_MAX = 8 << 20
# What the ledger admits as a payload of a task or a result.
PAYLOAD_BYTES_MAX = 1 << 20


class SlotProtocolError(Exception):
    """The other side sent what is no message; the slot is of no more use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReady:
    """The slot has imported what it was told to, and waits for work."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailed:
    """The slot could not import what it was told to; it ends now."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """One attempt to execute. `payload` is the JSON text of the task."""

    task_id: str
    kind: str
    epoch: int
    index: int
    attempt_number: int
    mode: str
    gpus: tuple[int, ...]
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The handler begins now; `pid` runs it (a child of the slot in fork mode)."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The outcome of the attempt, for the control plane. `payload` is JSON text."""

    succeeded: bool
    payload: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishAnswer:
    """Whether this outcome is the one that counts; otherwise why not."""

    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack:
    """The task was not touched and shall be placed elsewhere."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The handler has returned. `error`: how it ended when it raised; `recycle`: why the process must be replaced."""

    error: str
    recycle: str
    restored: tuple[str, ...]
    memory_bytes: int


Message = SlotReady | StartFailed | Assign | Started | Finish | FinishAnswer | GiveBack | Done
_TYPES: dict[str, type] = {
    kind.__name__: kind for kind in (SlotReady, StartFailed, Assign, Started, Finish, FinishAnswer, GiveBack, Done)
}


def encode(message: Message) -> bytes:
    """One frame. Raises SlotProtocolError when it would be larger than FRAME_BYTES_MAX."""
    body = {"type": type(message).__name__, **dataclasses.asdict(message)}
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if len(data) > FRAME_BYTES_MAX:
        raise SlotProtocolError(f"a {body['type']} of {len(data)} bytes is larger than {FRAME_BYTES_MAX}.")
    return _LENGTH.pack(len(data)) + data


def decode(data: bytes) -> Message:
    """The message in the body of a frame. Raises SlotProtocolError when it is none."""
    try:
        body = json.loads(data.decode("utf-8", "surrogatepass"))
        kind = _TYPES[body.pop("type")]
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
        message: Message = kind(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SlotProtocolError(f"no message: {data[:80]!r} ({error}).") from None
    return message


def _checked_length(header: bytes) -> int:
    length: int = _LENGTH.unpack(header)[0]
    if length > FRAME_BYTES_MAX:
        raise SlotProtocolError(f"a frame of {length} bytes is larger than {FRAME_BYTES_MAX}.")
    return length


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None at the end of the stream, also when it ends inside a frame (the sender was killed)."""
    try:
        length = _checked_length(await reader.readexactly(_LENGTH.size))
        return decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


class BlockingChannel:
    """The slot's end of the socket pair: blocking, for one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.setblocking(True)

    def send(self, message: Message) -> None:
        """Sends one message. Raises OSError when the agent is gone."""
        self._socket.sendall(encode(message))

    def receive(self) -> Message | None:
        """Waits for the next message; None when the agent is gone."""
        header = self._read(_LENGTH.size)
        if header is None:
            return None
        body = self._read(_checked_length(header))
        return None if body is None else decode(body)

    def _read(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._socket.recv(size - len(parts))
            except ConnectionError:
                return None
            if not part:
                return None
            parts += part
        return bytes(parts)

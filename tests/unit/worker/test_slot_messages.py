"""The messages between agent and slot survive the way, and what is no message is refused."""

from __future__ import annotations

import asyncio
import json
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_pkg.worker import slot_messages as sm

TEXTS = st.text(max_size=50)
MESSAGES = st.one_of(
    st.builds(sm.SlotReady, pid=st.integers(1, 2**22)),
    st.builds(sm.StartFailed, error=TEXTS),
    st.builds(
        sm.Assign,
        task_id=TEXTS,
        kind=TEXTS,
        epoch=st.integers(0, 2**32),
        index=st.integers(0, 2**64 - 1),
        attempt_number=st.integers(1, 99),
        mode=TEXTS,
        gpus=st.lists(st.integers(0, 7)).map(tuple),
        payload=TEXTS,
    ),
    st.builds(sm.Started, pid=st.integers(1, 2**22)),
    st.builds(sm.Finish, succeeded=st.booleans(), payload=TEXTS, error=TEXTS),
    st.builds(sm.FinishAnswer, accepted=st.booleans(), reason=TEXTS),
    st.builds(sm.GiveBack, reason=TEXTS),
    st.builds(
        sm.Done,
        error=TEXTS,
        recycle=TEXTS,
        restored=st.lists(TEXTS).map(tuple),
        memory_bytes=st.integers(0, 2**50),
    ),
)


@given(MESSAGES)
def test_a_message_survives(message: sm.Message) -> None:
    frame = sm.encode(message)
    assert struct.unpack(">I", frame[:4])[0] == len(frame) - 4
    assert sm.decode(frame[4:]) == message


def test_a_lone_surrogate_survives() -> None:
    """Error texts may contain them (os.fsdecode); they must not lose a loss report."""
    message = sm.StartFailed(error="bad name \udcff")
    assert sm.decode(sm.encode(message)[4:]) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"[]",
        b"3",
        b"{}",
        b'{"type": "Unknown"}',
        b'{"type": "Started"}',
        b'{"type": "Started", "pid": 1, "more": 2}',
        b"\xff\xff",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(sm.SlotProtocolError):
        sm.decode(data)


def test_too_large_a_message_is_not_sent() -> None:
    with pytest.raises(sm.SlotProtocolError, match="larger than"):
        sm.encode(sm.GiveBack(reason="x" * sm.FRAME_BYTES_MAX))


def test_the_largest_payload_fits_a_frame() -> None:
    payload = json.dumps("\x01" * (sm.PAYLOAD_BYTES_MAX // 6))
    assert len(payload) <= sm.PAYLOAD_BYTES_MAX + 10
    sm.encode(sm.Finish(succeeded=True, payload=payload, error=""))


def _read(data: bytes) -> list[sm.Message | None]:
    async def read() -> list[sm.Message | None]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        found: list[sm.Message | None] = []
        while not found or found[-1] is not None:
            found.append(await sm.read_message(reader))
        return found

    return asyncio.run(read())


def test_frames_are_told_apart() -> None:
    messages = [sm.Started(pid=1), sm.GiveBack(reason="two"), sm.Started(pid=3)]
    assert _read(b"".join(map(sm.encode, messages))) == [*messages, None]


def test_every_torn_frame_ends_the_stream() -> None:
    whole = sm.encode(sm.GiveBack(reason="torn"))
    for size in range(len(whole)):
        assert _read(whole[:size]) == [None]


def test_an_absurd_length_is_refused_before_it_is_read() -> None:
    with pytest.raises(sm.SlotProtocolError, match="larger than"):
        _read(struct.pack(">I", sm.FRAME_BYTES_MAX + 1))


def test_the_blocking_end_speaks_the_same() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = sm.BlockingChannel(theirs)
        channel.send(sm.Started(pid=4))
        assert ours.recv(1000) == sm.encode(sm.Started(pid=4))
        for byte in sm.encode(sm.GiveBack(reason="byte by byte")):
            ours.send(bytes([byte]))
        assert channel.receive() == sm.GiveBack(reason="byte by byte")
        ours.send(b"\x00\x00")
        ours.close()
        assert channel.receive() is None

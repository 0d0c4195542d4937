"""The control plane of people who have none: one process per Dagster home, started by the first user of it.

    any Dagster process --- attach ---> takes a shared lock (users.lock) for as long as it lives
                                        starts `python -m orchestrator_pkg.embedded ROOT` if nobody holds plane.lock
    the plane process                   one node (a cluster of one) and one worker in one event loop; gRPC on a Unix
                                        socket; log kept in ROOT/orchestrator, so queued work survives a restart
    the end                             no user holds users.lock, nothing is unfinished, and a moment has passed;
                                        or the folder is gone

File locks and not pid files: the kernel releases them however a process ends. The plane takes users.lock exclusively
before it stops, so that a user that comes at that moment waits and then starts a new one.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dagster import DagsterInstance

from orchestrator_pkg.slot_instance import INSTANCE_REF_VARIABLE, instance_ref_text

# A cold start imports Dagster in the slots while the node elects itself; slow disks and cores get time.
START_S_MAX = 90.0
# Paths of Unix sockets have 108 bytes, the last one a zero.
SOCKET_PATH_BYTES_MAX = 107
PLANE_LOG = "plane.log"


class EmbeddedError(Exception):
    """The embedded control plane does not start; the message says where its log is."""


@dataclass(frozen=True, slots=True)
class PlaneFiles:
    """Where the embedded control plane of a Dagster home keeps its things."""

    root: Path

    @classmethod
    def of(cls, instance_root: str | Path) -> PlaneFiles:
        """Those of an instance's root directory; makes the folder."""
        folder = Path(instance_root).resolve() / "orchestrator"
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @property
    def users_lock(self) -> Path:
        """Held shared by users, exclusively by a plane that stops."""
        return self.root / "users.lock"

    @property
    def plane_lock(self) -> Path:
        """Held by the plane while it lives."""
        return self.root / "plane.lock"

    @property
    def start_lock(self) -> Path:
        """Held while somebody starts the plane."""
        return self.root / "start.lock"

    @property
    def address_file(self) -> Path:
        """Has the plane's address once it serves."""
        return self.root / "address"

    @property
    def log(self) -> Path:
        """What plane and slots have to say."""
        return self.root / PLANE_LOG

    @property
    def socket(self) -> Path:
        """The Unix socket: beside the rest, or in the temporary folder when that path is too long for a socket."""
        path = self.root / "plane.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
            return path
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"orchestrator-{os.getuid()}-{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / "plane.sock"


_guard = threading.Lock()
# Locks of this process by root, and the address found there. By pid: a fork is a user of its own.
_attached: dict[tuple[int, Path], tuple[int, str]] = {}


def attach(instance: DagsterInstance) -> str:
    """Makes this process a user of the instance's embedded control plane; starts it if nobody has.

    Returns:
        The address, "unix:/path".

    Raises:
        EmbeddedError: it does not start.
    """
    files = PlaneFiles.of(instance.root_directory)
    key = os.getpid(), files.root
    with _guard:
        if key in _attached and not _is_free(files.plane_lock):
            return _attached[key][1]
        users_fd = _attached[key][0] if key in _attached else _lock_shared(files.users_lock)
        with _locked(files.start_lock):
            if _is_free(files.plane_lock):
                _start(files, instance_ref_text(instance), cwd=os.getcwd())
        _attached[key] = users_fd, files.address_file.read_text().strip()
        return _attached[key][1]


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock_shared(path: Path) -> int:
    descriptor = _open_lock(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_free(path: Path) -> bool:
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _start(files: PlaneFiles, instance_ref: str, *, cwd: str) -> None:
    """Starts the plane and waits for its ready line."""
    env = {**os.environ, INSTANCE_REF_VARIABLE: instance_ref}
    with files.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator_pkg.embedded", str(files.root)],
            cwd=cwd,
            env=_with_import_path(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C in the user's terminal must not reach it: it ends with its last user, in order.
            start_new_session=True,
        )
    line = _first_line(process)
    if not line:
        process.kill()
        process.wait()
        raise EmbeddedError(
            f"The embedded control plane did not start within {START_S_MAX:g} s; see {files.log}. "
            f"Last words: {_last_line(files.log)}"
        )
    _reap_later(process)


def _with_import_path(env: Mapping[str, str]) -> dict[str, str]:
    """The starter's import path for the slots, so that they find the user's modules as the starter does."""
    paths = [path for path in (env.get("PYTHONPATH"), *(p for p in sys.path if p and Path(p).is_dir())) if path]
    return {**env, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """The ready line; empty when the process ended or did not come up in time."""
    assert process.stdout is not None
    deadline = time.monotonic() + START_S_MAX
    while (left := deadline - time.monotonic()) > 0:
        if select.select([process.stdout], [], [], left)[0]:
            return process.stdout.readline()
    return b""


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    # The plane may end before its starter does; somebody must fetch its status, or it stays as a zombie.
    thread = threading.Thread(target=process.wait, name="orchestrator-embedded-reaper", daemon=True)
    thread.start()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "none"


def main(argv: list[str] | None = None) -> None:
    """The plane process: `python -m orchestrator_pkg.embedded ROOT`."""
    from orchestrator_pkg.embedded_plane import run_plane
    from raft_service import log

    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        raise SystemExit("usage: python -m orchestrator_pkg.embedded FOLDER (started by the plugin, not by hand)")
    files = PlaneFiles(Path(arguments[0]))
    log.configure(role="embedded", name=files.root.parent.name)
    lock = _open_lock(files.plane_lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"An embedded control plane of {files.root} runs already.") from None
    try:
        asyncio.run(run_plane(files, ready=_say_ready))
    finally:
        with suppress(FileNotFoundError):
            files.socket.unlink()
        with suppress(FileNotFoundError):
            files.address_file.unlink()
    sys.stderr.flush()
    # Not by return: threads of libraries may not end, and the locks end with the process.
    os._exit(0)


def _say_ready(address: str) -> None:
    print(json.dumps({"ready": True, "role": "embedded", "address": address}), flush=True)
    # The starter reads one line only; what came later would fill the pipe and block.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


if __name__ == "__main__":
    main()

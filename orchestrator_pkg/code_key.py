"""Which version of the user's code a process has loaded, so that one run never mixes two.

A code location is the set of project files that were loaded when its definitions were built: all modules below the
location's folder, not those that pip installed. Their contents give the digest, so machines agree whatever their clocks
and checkout times are. Processes may have loaded more or fewer files than the one that pinned the version (a step that
imports late), so two digests that differ are compared file by file before anybody is refused.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Parts of a path that say: installed, not written here.
FOREIGN_PARTS = frozenset({"site-packages", "dist-packages", ".venv", "venv"})
DIGEST_LETTERS = 16
# Files named in a message; more do not help.
NAMED_FILES_MAX = 3


@dataclass(frozen=True, slots=True)
class FileState:
    """One source file as it was when first seen loaded."""

    mtime_ns: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """The project files of a location as loaded: contents by path relative to the location's folder."""

    root: Path
    files: Mapping[str, str]
    digest: str


class LoadedFiles:
    """The project files that this process has loaded, each as it was then."""

    def __init__(self) -> None:
        self._states: dict[Path, FileState] = {}
        self._modules_seen: set[str] = set()

    def note_modules(self) -> None:
        """Looks at modules imported since the last call. Call after loading code and after each task."""
        for name in set(sys.modules) - self._modules_seen:
            self._modules_seen.add(name)
            file = getattr(sys.modules[name], "__file__", None)
            if isinstance(file, str) and file.endswith(".py"):
                self._note(Path(file))

    def _note(self, path: Path) -> None:
        if path in self._states or not FOREIGN_PARTS.isdisjoint(path.parts) or _is_standard(path):
            return
        state = read_state(path)
        if state is not None:
            self._states[path] = state

    def version(self, root: Path) -> CodeVersion:
        """What is loaded below root."""
        files = {
            path.relative_to(root).as_posix(): state.digest
            for path, state in self._states.items()
            if path.is_relative_to(root)
        }
        return CodeVersion(root=root, files=files, digest=digest_of(files))

    def changed_on_disk(self, root: Path) -> list[str]:
        """Loaded files below root that differ from the disk by now, as relative paths."""
        return sorted(
            path.relative_to(root).as_posix()
            for path, state in self._states.items()
            if path.is_relative_to(root) and not _is_unchanged(path, state)
        )

    def loaded_digest(self, root: Path, relative: str) -> str | None:
        """Digest of a file as loaded; as on disk when this process has not loaded it; None when there is none."""
        path = root / relative
        state = self._states.get(path) or read_state(path)
        return None if state is None else state.digest

    def differing(self, pinned: Mapping[str, str], root: Path) -> list[str]:
        """Files of a pinned version that this process sees otherwise."""
        return sorted(file for file, digest in pinned.items() if self.loaded_digest(root, file) != digest)


def read_state(path: Path) -> FileState | None:
    """A file as it is now; None when it cannot be read (deleted, or inside an archive)."""
    try:
        data, status = path.read_bytes(), path.stat()
    except OSError:
        return None
    return FileState(status.st_mtime_ns, status.st_size, hashlib.sha256(data).hexdigest()[:DIGEST_LETTERS])


def disk_differing(pinned: Mapping[str, str], root: Path) -> list[str]:
    """Files of a pinned version that are different on disk now."""
    found = {file: read_state(root / file) for file in pinned}
    return sorted(file for file, digest in pinned.items() if (s := found[file]) is None or s.digest != digest)


def digest_of(files: Mapping[str, str]) -> str:
    """One word for a set of files."""
    text = "\n".join(f"{path} {digest}" for path, digest in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]


def in_words(files: list[str]) -> str:
    """Names of files for a message."""
    more = len(files) - NAMED_FILES_MAX
    return ", ".join(files[:NAMED_FILES_MAX]) + (f" and {more} more" if more > 0 else "")


def _is_unchanged(path: Path, state: FileState) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    if (status.st_mtime_ns, status.st_size) == (state.mtime_ns, state.size):
        return True
    now = read_state(path)
    return now is not None and now.digest == state.digest


_STANDARD = Path(hashlib.__file__).parent


def _is_standard(path: Path) -> bool:
    return path.is_relative_to(_STANDARD) or path.is_relative_to(sys.prefix)


# One for the process: modules are loaded once for all tasks.
LOADED = LoadedFiles()

"""Pins the version of the code that a run started with, and looks it up again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from orchestrator_pkg.code_key import CodeVersion, in_words
from orchestrator_pkg.payloads import PayloadError

# Run tag that holds the digest, so that a resumed run keeps its version. Hidden from the UI's list by the dot.
PIN_TAG = ".orchestrator/code"
NOTE_PREFIX = "orchestrator/code/"


class CodeChanged(Exception):
    """The version of the code that a run started with is not on this machine any more."""


# Versions that this process knows to be in the database.
_kept: dict[str, Mapping[str, str]] = {}


def keep_files(put: Callable[[str, str], None], version: CodeVersion) -> None:
    """Writes down which files a version consists of, once a process.

    Args:
        put: stores a text under a key.
        version: as loaded here.
    """
    if version.digest not in _kept:
        put(NOTE_PREFIX + version.digest, json.dumps(version.files, separators=(",", ":")))
        _kept[version.digest] = version.files


def changed(files: list[str]) -> CodeChanged:
    """The error for files that are different now."""
    return CodeChanged(
        f"{in_words(files)} changed since the run started, and a run never mixes two versions of its code; "
        "start the run again."
    )


def pinned_files(get: Callable[[str], str | None], digest: str) -> Mapping[str, str]:
    """The files of a version, path to digest. Raises PayloadError when nobody wrote them down."""
    if digest not in _kept:
        text = get(NOTE_PREFIX + digest)
        if text is None:
            raise PayloadError(f"Code version {digest} is not in Dagster's database; start the run again.")
        _kept[digest] = json.loads(text)
    return _kept[digest]

"""Definitions that stay loaded: a code location is built once a process and reused by all runs and steps.

Dagster builds definitions anew whenever its cache of one entry misses: 1 to 300 ms, more with component trees. Here a
pointer that returns the built repository takes the place of the original one, for the time of one task. What is stored
about a run keeps the original pointer.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator_pkg._compat import (
    CodePointer,
    JobPythonOrigin,
    ReconstructableJob,
    initialize_repository_def_from_pointer,
    recon_job_from_origin,
)
from orchestrator_pkg.code_key import LOADED, CodeVersion

# A process serves few locations; each may hold megabytes of definitions.
LOCATIONS_MAX = 8


class WarmPointer(CodePointer):
    """Points to a repository that is in memory. Never stored; pickled (for a subprocess) as the original pointer."""

    def __init__(self, original: CodePointer, repository: Any) -> None:
        self.original = original
        self.repository = repository

    def load_target(self) -> object:
        """The repository."""
        return self.repository

    def describe(self) -> str:
        """For messages."""
        return self.original.describe()

    def __hash__(self) -> int:
        return id(self.repository)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WarmPointer) and other.repository is self.repository

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.original,)


def _itself(pointer: CodePointer) -> CodePointer:
    return pointer


@dataclass(frozen=True, slots=True)
class WarmLocation:
    """A loaded code location."""

    pointer: WarmPointer
    version: CodeVersion


class WarmDefinitions:
    """The code locations that this process has loaded. Used on one thread, as Dagster's loader is not thread-safe."""

    def __init__(self) -> None:
        self._locations: OrderedDict[tuple[CodePointer, int], WarmLocation] = OrderedDict()

    def job(self, origin: JobPythonOrigin, load_data: Any = None) -> tuple[ReconstructableJob, CodeVersion]:
        """The job of a run on loaded definitions, and the version of the code.

        Args:
            origin: the run's `job_code_origin`.
            load_data: the run's RepositoryLoadData, or None.

        Raises:
            Exception: whatever the user's code raises at import.
        """
        job = recon_job_from_origin(origin)
        location = self._location(job.repository.pointer, load_data)
        repository = job.repository._replace(pointer=location.pointer, repository_load_data=load_data)
        return job._replace(repository=repository), location.version

    def _location(self, pointer: CodePointer, load_data: Any) -> WarmLocation:
        key = (pointer, 0 if load_data is None else hash(load_data))
        location = self._locations.get(key)
        if location is None:
            root = code_root(pointer)
            repository = initialize_repository_def_from_pointer(pointer)
            LOADED.note_modules()
            location = WarmLocation(WarmPointer(pointer, repository), LOADED.version(root))
            self._locations[key] = location
            if len(self._locations) > LOCATIONS_MAX:
                self._locations.popitem(last=False)
        self._locations.move_to_end(key)
        return location


def code_root(pointer: CodePointer) -> Path:
    """The folder whose modules make up the code location: its working directory, else where its file lies."""
    folder = getattr(pointer, "working_directory", None)
    file = getattr(pointer, "python_file", None)
    if not folder and file:
        folder = os.path.dirname(file)
    return Path(folder or os.getcwd()).resolve()


# One for the process, as modules are.
DEFINITIONS = WarmDefinitions()

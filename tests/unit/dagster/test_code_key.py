"""Which code a process has loaded, and when it is another than the run's."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from orchestrator_pkg.code_key import LoadedFiles, digest_of, disk_differing, in_words
from orchestrator_pkg.code_pin import keep_files, pinned_files
from orchestrator_pkg.payloads import PayloadError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code_key_main.py").write_text("import code_key_part\n")
    (tmp_path / "code_key_part.py").write_text("VALUE = 1\n")
    (tmp_path / "code_key_late.py").write_text("LATE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("code_key_main", "code_key_part", "code_key_late"):
        sys.modules.pop(name, None)


def load(name: str) -> LoadedFiles:
    importlib.import_module(name)
    loaded = LoadedFiles()
    loaded.note_modules()
    return loaded


def edit(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, ns=(1, 1))


def test_only_loaded_files_below_the_root_count(project: Path) -> None:
    version = load("code_key_main").version(project)
    assert sorted(version.files) == ["code_key_main.py", "code_key_part.py"]
    assert version.digest == digest_of(version.files)


def test_contents_count_and_times_do_not(project: Path) -> None:
    loaded = load("code_key_main")
    os.utime(project / "code_key_part.py", ns=(5, 5))
    assert loaded.changed_on_disk(project) == []
    edit(project / "code_key_part.py", "VALUE = 2\n")
    assert loaded.changed_on_disk(project) == ["code_key_part.py"]


def test_a_deleted_file_has_changed(project: Path) -> None:
    loaded = load("code_key_main")
    (project / "code_key_part.py").unlink()
    assert loaded.changed_on_disk(project) == ["code_key_part.py"]


def test_a_process_that_loaded_more_files_agrees(project: Path) -> None:
    pinned = load("code_key_main").version(project)
    more = load("code_key_late")
    assert more.version(project).digest != pinned.digest
    assert more.differing(pinned.files, project) == []


def test_old_code_in_a_process_and_new_code_on_disk_are_told_apart(project: Path) -> None:
    old = load("code_key_main")
    edit(project / "code_key_part.py", "VALUE = 2\n")
    new = LoadedFiles()
    new.note_modules()
    pinned = new.version(project).files
    # The process is stale, the disk is not: a new process would do.
    assert old.differing(pinned, project) == ["code_key_part.py"]
    assert disk_differing(pinned, project) == []
    edit(project / "code_key_part.py", "VALUE = 3\n")
    assert disk_differing(pinned, project) == ["code_key_part.py"]


def test_installed_files_do_not_count(project: Path) -> None:
    version = LoadedFiles()
    version.note_modules()
    assert not [file for file in version.version(Path("/")).files if "site-packages" in file or "/lib/python" in file]


def test_pins_are_kept_and_found(project: Path) -> None:
    version = load("code_key_main").version(project)
    kept: dict[str, str] = {}
    keep_files(kept.__setitem__, version)
    assert list(kept) == [f"orchestrator/code/{version.digest}"]
    assert pinned_files(kept.get, version.digest) == version.files
    with pytest.raises(PayloadError, match="Code version gone"):
        pinned_files(kept.get, "gone")


def test_messages_name_a_few_files() -> None:
    assert in_words(["a", "b"]) == "a, b"
    assert in_words(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"

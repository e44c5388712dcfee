"""The file that an export is written into."""

import errno
import os
from pathlib import Path

import pytest
from mosaic_cli.audit_files import ExportFile

GONE = OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """Told before anything is exported, and nothing is left beside it."""
    folder = tmp_path / "exports"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        ExportFile(folder)
    assert refused.value.filename == str(folder)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["no/such/folder/a.ndjson", "a" * 250], ids=["in no folder", "too long with what is added"])
def test_an_error_names_what_was_typed(tmp_path: Path, name: str) -> None:
    """Not the file of another name that is written meanwhile."""
    with pytest.raises(OSError) as refused:  # noqa: PT011  which one it is depends on the name
        ExportFile(tmp_path / name)
    assert refused.value.filename == str(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_whatever_fails_at_the_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """A full disk, or a folder in its place: what was there stays, the unfinished file goes, and the error names the file."""

    def fail(*_: object) -> None:
        raise GONE

    monkeypatch.setattr(os if fails == "fsync" else Path, fails, fail)
    path = tmp_path / "a.ndjson"
    path.write_text("before")
    with pytest.raises(OSError, match="No space") as refused, ExportFile(path) as file:
        file.begin("work", 1)
    assert refused.value.filename == str(path)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.ndjson", "before")]


def test_a_disk_that_is_full_when_the_file_is_closed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stopped the export is told, not that closing failed too."""
    file = ExportFile(tmp_path / "a.ndjson")
    file.begin("work", 1)
    monkeypatch.setattr(file, "_file", FullWhenClosed())
    file.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []


class FullWhenClosed:
    def close(self) -> None:
        raise GONE

"""Files that are whole or absent, and private from their first byte."""

import os
import secrets
from pathlib import Path


def make_private_folder(path: Path) -> None:
    """Create a folder with mode 0700 unless there is one: an existing folder's mode is its owner's decision."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def create_file(path: Path, content: bytes) -> bytes:
    """Write a file unless there is one already; return what is in it now.

    Two processes that create the same key at once both end up with the winner's: link(2) fails where rename(2) would overwrite.
    """
    temporary = _write_temporary(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return path.read_bytes()
    finally:
        temporary.unlink()
    _sync_folder(path.parent)
    return content


def replace_file(path: Path, content: bytes) -> None:
    """Write a file over whatever is there; a reader sees the old one or the new one, whole."""
    _write_temporary(path, content).replace(path)
    _sync_folder(path.parent)


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

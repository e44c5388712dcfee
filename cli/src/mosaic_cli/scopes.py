"""Scope documents as files."""

import sys
from pathlib import Path

from mosaic_common.scope import MAX_DOCUMENT_BYTES, parse_scope_json


def read_scope(path: Path) -> bytes:
    """The file's bytes, or those of stdin for ``-``; at most one more than a scope may have."""
    if str(path) == "-":
        return sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1)
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES + 1)


def read_scope_text(path: Path) -> str:
    """The document as its author wrote it: the gateway checks it, and reports what only it can know in the same list.

    Raises:
        ScopeRefused: it cannot even be sent.
    """
    raw = read_scope(path)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or len(raw) > MAX_DOCUMENT_BYTES:
        parse_scope_json(raw)
    return text

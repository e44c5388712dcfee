"""An export of the audit log on its way into a file: mosaic_common.audit_export says what stands in it."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import orjson
from google.protobuf.message import Message
from mosaic.audit.v1.audit_pb2 import ExportAuditRequest, ExportAuditResponse, ExportRecord
from mosaic_common.audit_export import FORMAT

from mosaic_cli.connection import Operator

PAGE_SIZE: Final = 1000


class ExportFile:
    """A file that is there whole or not at all, for its owner only."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError, which names the path that was asked for and not the one that is written meanwhile."""
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        self._path: Final = path
        self._unfinished: Final = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with _named(path):
            descriptor = os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: Final = os.fdopen(descriptor, "wb")
        self.lines = 0
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            # Where the disk is full, closing fails once more.
            with suppress(OSError):
                self._file.close()
            self._unfinished.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._write({"kind": "end", "lines": self.lines})
        with _named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._unfinished.replace(self._path)

    def begin(self, gateway: str, begun_us: int) -> None:
        self._write({"kind": "export", "format": FORMAT, "gateway": gateway, "begun_us": begun_us})

    def add(self, record: ExportRecord) -> None:
        kind = record.WhichOneof("record")
        if kind is not None:
            self._write({"kind": kind, **columns(getattr(record, kind))})
            self.rows += kind == "row"

    def _write(self, line: dict[str, Any]) -> None:
        with _named(self._path):
            self._file.write(orjson.dumps(line) + b"\n")
        self.lines += 1


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an error of the unfinished file told of the one that was asked for."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def export_pages(gateway: Operator) -> Iterator[ExportAuditResponse]:
    """Raises: MosaicError, CommandFailed."""
    request = ExportAuditRequest(page_size=PAGE_SIZE)
    while True:
        page = gateway.ask(gateway.audit.ExportAudit, request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def columns(message: Message) -> dict[str, Any]:
    """A message by its fields' names: bytes in hexadecimal, absent ones as null."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def _value(message: Message, field: Any) -> Any:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if isinstance(value, Message):
        return columns(value)
    return value.hex() if isinstance(value, bytes) else value

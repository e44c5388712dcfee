"""Talk to the supervisor behind `dev up`: one JSON line each way, over a Unix socket in a folder that only its owner can enter."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

SOCKET_FILE: Final = "control.sock"
ANSWER_SECONDS: Final = 90.0
REQUEST_SECONDS: Final = 5.0

Document = Mapping[str, Any]


class NotRunning(Exception):
    """Nobody answers in this folder. One sentence."""


class RequestRefused(Exception):
    """The supervisor answered why not. Its sentence."""


class ControlServer:
    """Answers one request at a time, in the thread that waits for it."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        (folder / SOCKET_FILE).unlink(missing_ok=True)
        with _short_path(folder) as path:
            self._socket.bind(path)
        self._socket.listen()

    def serve_one(self, answer: Callable[[Document], Document], *, wait_seconds: float) -> None:
        """Answer the next request, if one comes in time. What `answer` raises as RequestRefused is told to the client."""
        self._socket.settimeout(wait_seconds)
        try:
            connection, _ = self._socket.accept()
        except TimeoutError:
            return
        # A client that hangs up or stalls is its own misfortune.
        with connection, contextlib.suppress(OSError, ValueError):
            connection.settimeout(REQUEST_SECONDS)
            request = json.loads(_read_line(connection))
            try:
                reply: Document = {"answer": answer(request)}
            except RequestRefused as refused:
                reply = {"refused": str(refused)}
            connection.sendall(json.dumps(reply).encode() + b"\n")

    def close(self) -> None:
        self._socket.close()


def ask(folder: Path, request: Document) -> Document:
    """Send one request to the supervisor of this folder.

    Raises:
        NotRunning: nobody listens there.
        RequestRefused: it says why.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            with _short_path(folder) as path:
                connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            reply = json.loads(_read_line(connection))
        except (OSError, ValueError):
            raise NotRunning(f"No gateways answer in {folder}: `mosaic dev up` starts them.") from None
    if "refused" in reply:
        raise RequestRefused(reply["refused"])
    answer: Document = reply["answer"]
    return answer


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """A socket's address holds 107 bytes at most, a folder's path may have more: reach it through an open descriptor."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_FILE}"
    finally:
        os.close(descriptor)


def _read_line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        return stream.readline()

"""The process behind `dev up`.

    python -P -m mosaic_cli.dev.detached FOLDER AUTHORITY REPORT_DESCRIPTOR

Until it is ready it reports each step over a socket to whoever launched it, and ends when that one does: an interrupted `dev up`
leaves nothing behind. From then on it belongs to nobody and waits for `dev down`.
"""

import json
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mosaic_cli.dev.authority import AuthorityKind
from mosaic_cli.dev.control import ControlServer, Document, RequestRefused
from mosaic_cli.dev.embedded import EmbeddedServerMissing
from mosaic_cli.dev.folder_lock import FolderInUse
from mosaic_cli.dev.interrupts import exit_once_on_signals
from mosaic_cli.dev.processes import ProcessFailed
from mosaic_cli.dev.supervisor import Supervisor

LOOK_SECONDS: Final = 1.0


def main(arguments: list[str]) -> None:
    folder, kind, descriptor = arguments
    exit_once_on_signals()
    with socket.socket(fileno=int(descriptor)) as launcher:
        supervisor = Supervisor(
            Path(folder), kind=AuthorityKind(kind), on_step=lambda done: _report(launcher, {"step": asdict(done)})
        )
        ready = threading.Event()
        threading.Thread(target=_end_with_launcher, args=(launcher, ready), name="launcher", daemon=True).start()
        try:
            supervisor.start()
            server = ControlServer(supervisor.folder)
        except FolderInUse as failure:
            _report(launcher, {"in_use": str(failure)})
            return
        except EmbeddedServerMissing as failure:
            _report(launcher, {"missing": str(failure)})
            return
        except ProcessFailed as failure:
            _report(launcher, {"failed": str(failure)})
            return
        ready.set()
        try:
            _report(launcher, {"ready": True})
            while not supervisor.folder_lost:
                server.serve_one(lambda request: _answer(supervisor, request), wait_seconds=LOOK_SECONDS)
        finally:
            server.close()
            supervisor.stop()


def _answer(supervisor: Supervisor, request: Document) -> Document:
    try:
        match request:
            case {"do": "status"}:
                return supervisor.status()
            case {"do": "stop", "gateway": gateway, "service": service}:
                supervisor.stop_service(gateway, service)
                return {}
            case {"do": "start", "gateway": gateway, "service": service}:
                supervisor.start_service(gateway, service)
                return {}
    except ProcessFailed as failure:
        raise RequestRefused(str(failure)) from None
    raise RequestRefused("The supervisor is of another version than this command: `mosaic dev down` ends it.")


def _report(launcher: socket.socket, report: dict[str, Any]) -> None:
    launcher.sendall(json.dumps(report).encode() + b"\n")


def _end_with_launcher(launcher: socket.socket, ready: threading.Event) -> None:
    """Nothing is ever sent this way: an answer is the end of whoever launched us."""
    launcher.recv(1)
    if not ready.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])

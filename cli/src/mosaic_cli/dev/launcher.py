"""Starting the process behind `dev up`, and following it until all is ready."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from mosaic_cli.dev.authority import AuthorityKind
from mosaic_cli.dev.embedded import EmbeddedServerMissing
from mosaic_cli.dev.folder_lock import FolderInUse
from mosaic_cli.dev.steps import StepDone

LOG_FILE: Final = "supervisor.log"


class StartFailed(Exception):
    """The gateways do not run. Says why, and shows the end of the log that knows more."""


def launch(folder: Path, kind: AuthorityKind, *, on_step: Callable[[StepDone], None]) -> None:
    """Start the gateways in a process of their own; returns once every service is ready.

    Raises:
        FolderInUse: by another supervisor; it goes on.
        StartFailed, EmbeddedServerMissing: nothing of it is left running.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-P", "-m", "mosaic_cli.dev.detached", str(folder.absolute()), str(kind), str(theirs.fileno())]
    with (folder / LOG_FILE).open("ab") as log, theirs:
        process = subprocess.Popen(  # noqa: S603 - our own module
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, pass_fds=[theirs.fileno()], start_new_session=True
        )
    try:
        with ours, ours.makefile("rb") as reports:
            _follow(reports, on_step)
    except BaseException:
        # Our end of the socket is closed: it stops, and takes a moment to do so in order.
        process.wait()
        raise
    process.returncode = 0  # it outlives this process on purpose: nobody is to wait for it


def _follow(reports: Iterable[bytes], on_step: Callable[[StepDone], None]) -> None:
    for line in reports:
        match json.loads(line):
            case {"step": step}:
                on_step(StepDone(**step))
            case {"in_use": reason}:
                raise FolderInUse(reason)
            case {"missing": reason}:
                raise EmbeddedServerMissing(reason)
            case {"failed": reason}:
                raise StartFailed(reason)
            case {"ready": True}:
                return
    raise StartFailed(f"The supervisor ended unexpectedly; {LOG_FILE} in its folder may say why.")

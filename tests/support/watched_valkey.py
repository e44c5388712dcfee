"""A Valkey whose keys a test can look at, and whose time it can move."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import valkey
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_cli.dev.processes import Command

from tests.support.gateway import VALKEY_PASSWORDS

ADMIN: Final = "admin"
PASSWORD: Final = "admin-of-this-test-run-only"


class WatchedValkey(EmbeddedValkey):
    """The embedded server, with one user more who may do everything."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, passwords=VALKEY_PASSWORDS)

    def keys(self) -> list[str]:
        """Every key there is."""
        with self._admin() as admin:
            return sorted(key.decode() for key in admin.scan_iter(count=1000))

    def lives(self) -> dict[str, timedelta]:
        """How long each key has to live; -1 ms: for ever."""
        with self._admin() as admin:
            return {key.decode(): timedelta(milliseconds=admin.pttl(key)) for key in admin.scan_iter(count=1000)}

    def let_pass(self, time: timedelta) -> None:
        """Make everything that was counted so much older: every number long enough to be a moment in microseconds."""
        passed_us = round(time.total_seconds() * 1_000_000)
        with self._admin() as admin:
            for key in admin.scan_iter(count=1000):
                counted = admin.get(key) or b""  # expired since it was found
                older = re.sub(rb"\d{13,}", lambda moment: b"%d" % (int(moment[0]) - passed_us), counted)
                admin.set(key, older, keepttl=True, xx=True)

    def calls(self) -> int:
        """How many scripts have run since the server started."""
        with self._admin() as admin:
            return sum(each["calls"] for name, each in admin.info("commandstats").items() if name == "cmdstat_evalsha")

    def flush(self) -> None:
        with self._admin() as admin:
            admin.flushall()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """It is there, takes connections, and answers nothing meanwhile."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def _admin(self) -> Iterator[Any]:
        connection: Any = valkey.Valkey(host="127.0.0.1", port=self.port, username=ADMIN, password=PASSWORD)
        try:
            yield connection
        finally:
            connection.close()

    def _server(self, binary: Path) -> Command:
        command = super()._server(binary)
        admin = f"\nuser {ADMIN} on #{sha256(PASSWORD.encode()).hexdigest()} ~* &* +@all"
        return replace(command, stdin=command.stdin + admin.encode())

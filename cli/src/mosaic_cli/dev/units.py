"""Things that run: a service or a server with its listeners, started, ready, stopped."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from mosaic_cli.dev.ports import is_taken, listens
from mosaic_cli.dev.processes import Command, Lifeline, Process, ProcessFailed

READY_SECONDS: Final = 60.0


class Unit(Protocol):
    """One process of a gateway."""

    @property
    def pid(self) -> int | None:
        """None while it does not run."""

    def start(self) -> None:
        """Return once it is ready. Raises: ProcessFailed."""

    def stop(self) -> None:
        """Return once it has ended; nothing happens when it does not run."""


class Service:
    """A process of ours: ready when it, and nobody else, has its ports, and it says so itself.

    Args:
        ports: listener → port on 127.0.0.1.
        says_ready: asked only once the ports are its own.
    """

    def __init__(
        self, command: Callable[[], Command], ports: Mapping[str, int], says_ready: Callable[[], bool], lifeline: Lifeline
    ) -> None:
        self._command = command
        self._ports = ports
        self._says_ready = says_ready
        self._lifeline = lifeline
        self._process: Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.running else None

    def start(self) -> None:
        command = self._command()
        refuse_taken_ports(command.name, self._ports)
        process = self._process = Process(command, self._lifeline)
        try:
            process.wait_until(lambda: self._has_ports(process) and self._says_ready(), timeout_seconds=READY_SECONDS)
        except BaseException:
            process.stop()
            raise

    def stop(self) -> None:
        if self._process:
            self._process.stop()

    def _has_ports(self, process: Process) -> bool:
        return all(listens(process.pid, port) for port in self._ports.values())


def refuse_taken_ports(name: str, ports: Mapping[str, int]) -> None:
    """Raises: ProcessFailed when somebody else already answers where this process should."""
    for listener, port in ports.items():
        if is_taken(port):
            raise ProcessFailed(
                f"Port {port}, which {name} keeps for its listener {listener!r}, is answered by another process: "
                "end that one, or start with an empty folder to choose other ports."
            )

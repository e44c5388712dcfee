"""Child processes that never outlive this one.

Two locks, because each has a hole: the parent-death signal (set by child.py) misses grandchildren, the lifeline (lifeline.py)
misses what leaves its process group. PostgreSQL's backends do leave it, and end with their postmaster by themselves.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from mosaic_cli.dev.child import EXIT_NO_USER_NAMESPACE

CHILD: Final = Path(__file__).with_name("child.py")
LIFELINE: Final = Path(__file__).with_name("lifeline.py")
LOG_TAIL_LINES: Final = 12
POLL_SECONDS: Final = 0.01
# Nothing else is inherited: a MOSAIC_* or PYTHON* variable of the user's shell would change what a service does.
INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TZ")


class ProcessFailed(Exception):
    """A child ended, or did not become ready. One sentence and the end of its log."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run.

    Attributes:
        name: for messages and the log file.
        argv: absolute path of the program first.
        log: receives standard output and error, appended.
        environment: beside INHERITED, complete.
        cwd: also where temporary files go, so that nothing is written elsewhere.
        stdin: fed once and closed; secrets travel here and not in argv.
        stop_signal: asks for an orderly end, and is sent when the parent dies unless `death_signal` is given.
        never_root: run in a user namespace when this process is root.
    """

    name: str
    argv: Sequence[str]
    log: Path
    cwd: Path
    environment: Mapping[str, str]
    stdin: bytes = b""
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals | None = None
    never_root: bool = False


class Lifeline:
    """One process group for all children; it ends when this process does, however that happens."""

    def __init__(self) -> None:
        # To the kernel the parent is a thread: children started by one that returns would die with it.
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
        self._children: list[subprocess.Popen[bytes]] = []
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", str(LIFELINE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            process_group=0,
        )

    def spawn(
        self, argv: Sequence[str], *, stdin: int, log: BinaryIO, cwd: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a member of the group; from any thread.

        Raises:
            ProcessFailed: the lifeline is closed.
        """

        def start() -> subprocess.Popen[bytes]:
            child = subprocess.Popen(  # noqa: S603 - commands are written in this package, no argument comes from outside
                argv, stdin=stdin, stdout=log, stderr=subprocess.STDOUT, cwd=cwd, env=environment, process_group=self._process.pid
            )
            self._children.append(child)
            return child

        try:
            return self._spawner.submit(start).result()
        except RuntimeError:
            raise ProcessFailed("Everything is being stopped: nothing is started any more.") from None

    def close(self) -> None:
        """Kill whatever is still in the group. An orderly end is the caller's to have asked for before."""
        self._spawner.shutdown()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        for child in self._children:
            child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Process:
    """A started child. Its pid is the server's own."""

    def __init__(self, command: Command, lifeline: Lifeline) -> None:
        self.command: Final = command
        identity = "user-namespace" if command.never_root and os.geteuid() == 0 else "same-user"
        death_signal = command.death_signal or command.stop_signal
        wrapper = [sys.executable, "-I", "-S", str(CHILD), str(os.getpid()), str(int(death_signal)), identity]
        command.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with command.log.open("ab") as log:
            self._log_offset = log.tell()
            self._process = lifeline.spawn(
                [*wrapper, *command.argv],
                stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
                log=log,
                cwd=command.cwd,
                environment=inherited_environment() | {"TMPDIR": str(command.cwd)} | dict(command.environment),
            )
        if self._process.stdin is not None:
            # A child that ended at once is reported by whoever waits for it, with its log.
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(command.stdin)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Return once `ready` says so.

        Raises:
            ProcessFailed: the process ended first, or the time is over.
        """
        deadline = time.monotonic() + timeout_seconds
        while self.running:
            if ready():
                return
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{self.command.name} is not ready after {timeout_seconds:g} s.{self.log_tail()}")
            time.sleep(POLL_SECONDS)
        raise self.failure()

    def wait(self, *, timeout_seconds: float) -> None:
        """Return once the process has ended well.

        Raises:
            ProcessFailed: it ended otherwise, or the time is over (then it is killed).
        """
        try:
            status = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProcessFailed(f"{self.command.name} is not done after {timeout_seconds:g} s.{self.log_tail()}") from None
        if status != 0:
            raise self.failure()

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        """Ask for an orderly end, then insist. Nothing happens when it has ended already."""
        self.ask_to_stop()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def ask_to_stop(self) -> None:
        """Send the stop signal and return at once, so that several processes can end at the same time."""
        if self.running:
            self._process.send_signal(self.command.stop_signal)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def failure(self) -> ProcessFailed:
        """Why a process that has ended did so, in one sentence and its last words."""
        if self._process.returncode == EXIT_NO_USER_NAMESPACE:
            return ProcessFailed(
                f"{self.command.name} refuses to run as root, and this machine allows no user namespace to leave root in: "
                "run as an ordinary user."
            )
        return ProcessFailed(f"{self.command.name} ended with status {self._process.returncode}.{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines that this start wrote, ready to be appended to a sentence."""
        with self.command.log.open("rb") as log:
            log.seek(self._log_offset)
            lines = log.read().decode(errors="replace").splitlines()
        tail = "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:])
        return f" {self.command.log} says:\n{tail}" if tail else f" {self.command.log} is empty."


def run(command: Command, lifeline: Lifeline, *, timeout_seconds: float) -> None:
    """Run to the end.

    Raises:
        ProcessFailed: it ended otherwise than well, or not in time.
    """
    Process(command, lifeline).wait(timeout_seconds=timeout_seconds)


def inherited_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}

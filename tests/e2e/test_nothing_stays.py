"""`mosaic dev`: however it ends, no process of it stays, and nothing is written but into its folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from mosaic_cli.dev.control import ask

pytestmark = pytest.mark.alone

START_SECONDS: Final = 120.0
GONE_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.05
# Of seven processes in each gateway: enough run for the command to be in the middle of starting them.
UNDER_WAY: Final = 4

MOSAIC: Final = (sys.executable, "-P", "-m", "mosaic_cli")
# A shell that stays between the terminal and the command, as under `make demo`.
JOB: Final = ("/bin/sh", "-c", '"$@"; exit $?', "job")


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """A pid alone may be somebody else's a moment later."""

    pid: int
    started: str

    @property
    def lives(self) -> bool:
        return find_process(self.pid) == self


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all endings: each start also proves that the ending before it left nothing in the way."""
    folder = tmp_path_factory.mktemp("nothing") / "given"
    yield folder
    mosaic("dev", "down", "--dir", str(folder))


def interrupt_terminal(job: subprocess.Popen[bytes]) -> None:
    """Ctrl-C: everybody in the terminal's foreground gets SIGINT."""
    os.killpg(job.pid, signal.SIGINT)


def kill_command(job: subprocess.Popen[bytes]) -> None:
    [command] = children_of(job.pid)
    os.kill(command, signal.SIGKILL)


def kill_parent(job: subprocess.Popen[bytes]) -> None:
    job.kill()


def is_starting(folder: Path) -> bool:
    return len(processes_of(folder)) >= UNDER_WAY


def is_telling(folder: Path) -> bool:
    """All services run, and the story is at its commands."""
    return (folder / "demo" / "scope.json").exists()


@pytest.mark.parametrize(
    ("command", "moment", "end"),
    [
        pytest.param("up", is_starting, interrupt_terminal, id="Ctrl-C of dev up"),
        pytest.param("up", is_starting, kill_command, id="kill -9 of dev up"),
        pytest.param("demo", is_starting, interrupt_terminal, id="Ctrl-C of dev demo"),
        pytest.param("demo", is_starting, kill_command, id="kill -9 of dev demo"),
        pytest.param("demo", is_telling, kill_parent, id="kill -9 of what started dev demo"),
    ],
)
def test_no_process_outlives_a_command_that_was_cut_short(
    folder: Path, command: str, moment: Callable[[Path], bool], end: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    """Servers, services, supervisor, lifelines: whatever had been started is gone soon after the command is."""
    job = subprocess.Popen(
        [*JOB, *MOSAIC, "dev", command, "--dir", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    assert eventually(lambda: moment(folder), START_SECONDS)
    seen = processes_of(folder) | descendants_of(job.pid)
    end(job)
    job.wait(GONE_SECONDS)
    assert eventually(lambda: not any(process.lives for process in seen), GONE_SECONDS), told(seen)
    assert not processes_of(folder), told(processes_of(folder))


def test_no_process_outlives_a_supervisor_that_was_killed(folder: Path) -> None:
    """kill -9 of the one process that `dev up` leaves behind takes all that it looks after along."""
    up = mosaic("dev", "up", "--dir", str(folder))
    assert up.returncode == 0, up.stderr
    supervisor = ask(folder, {"do": "status"})["pid"]
    seen = processes_of(folder) | descendants_of(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    assert eventually(lambda: not any(process.lives for process in seen), GONE_SECONDS), told(seen)
    assert not processes_of(folder), told(processes_of(folder))


ROOT: Final = Path(__file__).parents[2]
NAMESPACES: Final = ("unshare", "--user", "--map-root-user", "--mount", "--ipc")
# Everybody's places for files become empty ones of this script's own; what is found there afterwards, the command has left.
IN_A_WORLD_OF_ITS_OWN: Final = """
set -eu
python=$1 checkout=$2
# A checkout may itself lie in a place for temporary files: it comes along.
mount -t tmpfs tmpfs /mnt
mkdir /mnt/checkout
mount --rbind "$checkout" /mnt/checkout
for place in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$place"; done
mkdir -p "$checkout"
mount --rbind /mnt/checkout "$checkout"
mkdir /tmp/home /tmp/cwd
export HOME=/tmp/home TMPDIR=/tmp
cd /tmp/cwd
"$python" -P -m mosaic_cli dev up --dir /tmp/given >&2
"$python" -P -m mosaic_cli dev down --dir /tmp/given >&2
find /tmp /var/tmp /dev/shm -mindepth 1 -path /tmp/given -prune -o -path "$checkout" -prune -o -mindepth 1 -print
sed '1d; s/^/shared memory: /' /proc/sysvipc/shm
"""


def test_up_and_down_leave_no_process_and_write_nothing_outside_the_folder() -> None:
    """Not in the home folder, the working folder or anywhere for temporary files, and no shared memory."""
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no user namespaces")
    done = subprocess.run(
        [*NAMESPACES, "/bin/sh", "-c", IN_A_WORLD_OF_ITS_OWN, "sh", sys.executable, str(ROOT)],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    left = set(done.stdout.splitlines()) - {str(above) for above in ROOT.parents}
    assert left == {"/tmp/home", "/tmp/cwd"}
    assert not processes_of(Path("/tmp/given")), told(processes_of(Path("/tmp/given")))


def mosaic(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MOSAIC, *arguments], capture_output=True, text=True, timeout=START_SECONDS, cwd="/", check=False)


def processes_of(folder: Path) -> set[Process]:
    """Every process that names the folder in its arguments or environment, or works in it."""
    named = os.fsencode(folder)
    found = set()
    for entry in Path("/proc").iterdir():
        # Processes end while one looks, and others' may not be looked at.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if not entry.name.isdigit():
                continue
            about = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes() + os.fsencode((entry / "cwd").readlink())
            process = find_process(int(entry.name))
            if named in about and process:
                found.add(process)
    return found


def descendants_of(pid: int) -> set[Process]:
    found = {process} if (process := find_process(pid)) else set()
    return found.union(*map(descendants_of, children_of(pid)))


def children_of(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        tasks = Path("/proc", str(pid), "task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def find_process(pid: int) -> Process | None:
    """None for one that has ended, whether or not its parent has asked how."""
    with suppress(FileNotFoundError, ProcessLookupError):
        # The program's name stands in parentheses and may hold anything, so count from the last one.
        state, *fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else Process(pid, started=fields[18])
    return None


def told(processes: set[Process]) -> Mapping[int, str]:
    """What is still there, for whoever reads the failure."""
    living = [process.pid for process in processes if process.lives]
    return {pid: Path("/proc", str(pid), "cmdline").read_text().replace("\0", " ") for pid in living}


def eventually(holds: Callable[[], bool], within_seconds: float) -> bool:
    deadline = time.monotonic() + within_seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True

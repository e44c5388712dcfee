"""The compiled client, and what one round of it found."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.processor_time import ProcessorTime

ROOT: Final = Path(__file__).parents[3]
BINARY: Final = "bench-load"
LOAD: Final = "load"


class LoadMissing(Exception):
    """One sentence."""


class LoadFailed(Exception):
    """What the client said."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One TLS connection and what is asked over it, in turn.

    Attributes:
        certificate_pem: leaf first; empty for a caller who brings a token instead.
        requests: serialized messages.
    """

    requests: Sequence[bytes]
    certificate_pem: bytes = b""
    key_pem: bytes = field(default=b"", repr=False)
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server listens, and the name and root that it has to prove."""

    address: str
    server_name: str
    root_pem: bytes


@dataclass(frozen=True, slots=True)
class Round:
    """What one variant did in one round.

    Attributes:
        processor_us: process → microseconds of processor time per call.
        cores: process → how many cores it kept busy on average.
        refused: streams that the server refused unseen and the client sent again.
    """

    calls: int
    per_second: float
    p50_us: float
    p90_us: float
    p99_us: float
    answer_bytes: float
    processor_us: Mapping[str, float]
    cores: Mapping[str, float]
    refused: int = 0


def find_binary() -> Path:
    """Raises LoadMissing: it was not built."""
    found = shutil.which(BINARY, path=str(ROOT / ".tools" / "bin"))
    if found is None:
        raise LoadMissing("The client of the benchmark is not built: run `make tools`, which needs Go.")
    return Path(found)


def measure(
    target: Target,
    method: str,
    connections: Sequence[Connection],
    processes: Mapping[str, int],
    *,
    in_flight: int,
    seconds: float,
    warm_up_seconds: float,
) -> Round:
    """Keep so many calls in flight for so long.

    Args:
        processes: name → pid of whoever takes part, beside the client.

    Raises:
        LoadFailed: a call failed; what it measures then is something else.
    """
    plan = {
        "target": target.address,
        "server_name": target.server_name,
        "root_pem": target.root_pem.decode(),
        "method": method,
        "in_flight": in_flight,
        "seconds": seconds,
        "warm_up_seconds": warm_up_seconds,
        "connections": [_connection(each) for each in connections],
    }
    with _client() as client:
        assert client.stdin is not None
        client.stdin.write(json.dumps(plan).encode() + b"\n")
        client.stdin.flush()
        _line(client)
        processor = ProcessorTime({**processes, LOAD: client.pid})
        before = processor.read()
        client.stdin.write(b"go\n")
        client.stdin.flush()
        found = json.loads(_line(client))
        spent = processor.since(before)
    if found["failures"]:
        raise LoadFailed(f"{method}, {in_flight} in flight: {found['failures']}")
    calls, took = found["calls"], found["seconds"]
    return Round(
        calls=calls,
        per_second=calls / took,
        p50_us=found["p50_us"],
        p90_us=found["p90_us"],
        p99_us=found["p99_us"],
        answer_bytes=found["bytes_each"],
        processor_us={name: each * 1e6 / calls for name, each in spent.items()},
        cores={name: each / took for name, each in spent.items()},
        refused=found["refused"],
    )


@contextmanager
def _client() -> Iterator[subprocess.Popen[bytes]]:
    client = subprocess.Popen([find_binary()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield client
        # It stays until its standard input ends.
        client.communicate(timeout=10)
    finally:
        client.kill()
        client.wait()


def _line(client: subprocess.Popen[bytes]) -> bytes:
    assert client.stdout is not None
    assert client.stderr is not None
    line = client.stdout.readline()
    if not line:
        raise LoadFailed(client.stderr.read().decode(errors="replace").strip())
    return line


def _connection(connection: Connection) -> Mapping[str, Any]:
    return {
        "certificate_pem": connection.certificate_pem.decode(),
        "key_pem": connection.key_pem.decode(),
        "authorization": connection.authorization,
        "requests": [base64.b64encode(each).decode() for each in connection.requests],
    }

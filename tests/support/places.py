"""Everything that a gateway, its servers and its operator leave behind or show: what a search for secrets has to look at."""

import contextlib
import os
import re
import socket
import stat
import threading
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg
import valkey
from psycopg import sql

SAMPLE_SECONDS: Final = 0.03
# A process begins as a copy of the one that starts it: its own arguments come a moment later.
SAMPLES: Final = 10
PACKED_BYTES: Final = 1024 * 1024
_PACKED: Final = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]")


class Kind(StrEnum):
    """Where something can be left."""

    LOG = "log"
    FILE = "file"
    DATABASE_FILE = "file of PostgreSQL"
    COLUMN = "column of a table"
    VALKEY = "key or value in Valkey"
    MONITOR = "Valkey's MONITOR"
    ARGUMENTS = "arguments of a process"
    ENVIRONMENT = "environment of a service"
    COMMAND = "output of a command"
    REFUSAL = "gRPC error"
    ANSWER = "gRPC answer"


@dataclass(frozen=True, slots=True)
class Place:
    """Attributes:
    name: a path below the bed's folder, or words.
    """

    kind: Kind
    name: str
    content: bytes


def files_below(folder: Path) -> Iterator[Place]:
    """Every regular file, hidden and temporary ones too, and what it is called."""
    for directory, _, names in os.walk(folder):
        for name in names:
            path = Path(directory, name)
            # Servers run meanwhile, and may take a file away.
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink():
                    relative = path.relative_to(folder)
                    yield Place(_kind_of(relative), str(relative), path.read_bytes() + b"\n" + str(relative).encode())


def _kind_of(path: Path) -> Kind:
    if "data" in path.parts and "postgres" in path.parts:
        return Kind.DATABASE_FILE
    return Kind.LOG if path.suffix == ".log" else Kind.FILE


def columns_of(gateway: str, database: psycopg.Connection) -> Iterator[Place]:
    """Every column of every table that is no part of PostgreSQL itself, as COPY writes it; its roles, and what its sessions ran."""
    tables = database.execute(
        """SELECT c.oid::regclass::text, n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum)
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
           WHERE a.attnum > 0 AND NOT a.attisdropped
             AND (c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
                  OR c.oid IN ('pg_authid'::regclass, 'pg_stat_activity'::regclass))
           GROUP BY 1, 2, 3 ORDER BY 1"""
    ).fetchall()
    for table, schema, name, columns in tables:
        for column in columns:
            statement = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(sql.Identifier(column), sql.Identifier(schema, name))
            with database.cursor().copy(statement) as rows:
                yield Place(Kind.COLUMN, f"{gateway}: {table}.{column}", b"".join(map(bytes, rows)))


def values_of(gateway: str, server: "valkey.Valkey") -> Iterator[Place]:
    """Every key, and its value as DUMP serializes it."""
    client: Any = server
    for key in client.scan_iter(count=1000):
        yield Place(Kind.VALKEY, f"{gateway}: {key.decode(errors='replace')}", key + b" " + (client.dump(key) or b""))


def environments_of(pids: Iterable[int]) -> Iterator[Place]:
    for pid in pids:
        name = Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\x00", b" ").decode()
        yield Place(Kind.ENVIRONMENT, name, Path("/proc", str(pid), "environ").read_bytes())


def memory_of(pid: int) -> Iterator[bytes]:
    """What a process holds in memory that it may write to, region by region."""
    process = Path("/proc", str(pid))
    with contextlib.suppress(ProcessLookupError, FileNotFoundError), (process / "mem").open("rb", buffering=0) as memory:
        for line in (process / "maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                first, end = (int(each, 16) for each in span.split("-"))
                with contextlib.suppress(OSError, OverflowError):
                    memory.seek(first)
                    yield memory.read(end - first)


def open_files_of(gateway: str, pids: Mapping[str, int]) -> Iterator[Place]:
    """Every regular file that a process or a child of it has open, also one that has no name any more."""
    for service, parent in pids.items():
        for pid in (parent, *_children_of(parent)):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for descriptor in Path("/proc", str(pid), "fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        if stat.S_ISREG(descriptor.stat().st_mode):
                            name = f"{gateway}: opened by {service}: {descriptor.readlink()}"
                            yield Place(Kind.FILE, name, descriptor.read_bytes())


def _children_of(pid: int) -> list[int]:
    return [int(child) for task in Path("/proc", str(pid), "task").iterdir() for child in (task / "children").read_text().split()]


def new_files_in(folder: Path, known: Container[str]) -> Iterator[Place]:
    """Every file in or below what is in a folder and was not known to be there."""
    for entry in folder.iterdir():
        if entry.name in known:
            continue
        # Others on this machine make and remove folders there meanwhile; os.walk passes over what is gone.
        below = (Path(parent, name) for parent, _, names in os.walk(entry) for name in names)
        for path in below if entry.is_dir() else (entry,):
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    yield Place(Kind.FILE, str(path), path.read_bytes())


def unpacked(content: bytes) -> Iterator[bytes]:
    """What every gzip or zlib stream in it was made of, as far as it goes."""
    whole = memoryview(content)
    for start in _PACKED.finditer(content):
        with contextlib.suppress(zlib.error):
            packed = whole[start.start() : start.start() + PACKED_BYTES]
            yield zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(packed, PACKED_BYTES)


class ArgumentWatch:
    """Notes the arguments of every process of this machine that lives for a moment, ours among them."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="arguments", daemon=True)

    def places(self) -> Iterator[Place]:
        for each in sorted(self._seen):
            yield Place(Kind.ARGUMENTS, each.replace(b"\x00", b" ").decode(errors="replace")[:200], each)

    def _watch(self) -> None:
        sampled: Counter[str] = Counter()
        while not self._ended.wait(SAMPLE_SECONDS):
            for process in Path("/proc").glob("[0-9]*"):
                if sampled[process.name] < SAMPLES:
                    sampled[process.name] += 1
                    with contextlib.suppress(OSError):
                        self._seen.add((process / "cmdline").read_bytes())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()


class ValkeyMonitor:
    """Every command that a Valkey server is given, as MONITOR tells it; ends with the server or the block."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(f"AUTH {user} {password}\r\nMONITOR\r\n".encode())
        self.told = bytearray()
        self._thread = threading.Thread(target=self._listen, name="monitor", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while told := self._socket.recv(65_536):
                self.told += told

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

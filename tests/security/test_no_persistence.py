"""Nothing that is read from a peer is written anywhere: the canary rows of tests/support/row_stories.py are afterwards in no place
of the gateway that read them.

Both gateways are processes that say all they can (tests/support/talkative_pair.py). Everything that home and its user left is
searched: every file below its folder, raw files and WAL of PostgreSQL among them, what its processes have open and what was
written meanwhile where temporary files go, every column and a dump of its database, every key, every command and the memory of its
Valkey, logs, errors, arguments, environments. What was searched is listed in the report of the test.
"""

import gzip
import importlib.util
import resource
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from mosaic_cli.dev.embedded import POSTGRES_BINARIES, POSTGRES_WHEEL
from mosaic_common.resources import REGISTRY

from tests.support.canaries import Canary, Found, Search
from tests.support.places import Kind, Place, memory_of, new_files_in, open_files_of, unpacked
from tests.support.row_stories import everything
from tests.support.talkative_pair import TalkativePair, new_secret, talkative_pair

pytestmark = pytest.mark.stepca

VALKEY: Final = "valkey"
SERVICES: Final = ("ca-broker", "grants", "enrollment", "edge-inbound", "edge-outbound", "postgres", VALKEY)
HOMES_FILES: Final = (*(f"home/logs/{service}.log" for service in SERVICES), "home/valkey/dump.rdb", "home: pg_dump")
TEMPORARY: Final = Path(tempfile.gettempdir())
MEMORY: Final = "home: memory of Valkey"
# Where a word that was planted has to be seen at home; the others are of no gateway.
AT_HOME: Final = (Kind.LOG, Kind.DATABASE_FILE, Kind.COLUMN, Kind.VALKEY, Kind.MONITOR)


@dataclass(frozen=True, slots=True)
class Searched:
    """What was looked for, where, and what was found."""

    canaries: tuple[Canary, ...]
    places: list[tuple[Kind, str, int]]
    found: list[tuple[Found, Kind, str]]
    packed: int

    @property
    def leaks(self) -> list[str]:
        strange = {each for each in self.found if not each[0].canary.lives_in(each[2])}
        return sorted(f"{found.canary.name} ({found.spelling}) in {kind}: {place}" for found, kind, place in strange)

    def __str__(self) -> str:
        lines = [f"{len(self.canaries)} canaries; {self.packed} packed streams were unpacked and searched"]
        lines += [f"  {canary.name}" for canary in self.canaries]
        for kind in Kind:
            sizes = [size for each, _, size in self.places if each is kind]
            lines.append(f"{kind}: {len(sizes)} places, {sum(sizes):,} bytes")
        folders = Counter(_folder_of(name) for _, name, _ in self.places)
        return "\n".join([*lines, *(f"  {name} × {number}" for name, number in sorted(folders.items()))])


def _folder_of(name: str) -> str:
    if "/" in name:
        return name.rpartition("/")[0]
    return name.rpartition(".")[0] if name.startswith(("home: ", "work: ")) else name.partition(" ")[0]


@pytest.fixture(scope="module")
async def searched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Searched]:
    known = frozenset(each.name for each in TEMPORARY.iterdir())
    with _no_cores():
        async with talkative_pair(tmp_path_factory.mktemp("readers")) as pair:
            search = Search(await everything(pair))
            places, found, packed = [], [], 0
            for place in _places(pair, known):
                places.append((place.kind, place.name, len(place.content)))
                found += [(each, place.kind, place.name) for each in search.find(place.content)]
                for content in unpacked(place.content):
                    packed += 1
                    found += [(each, place.kind, place.name) for each in search.find(content)]
            yield Searched(search.canaries, places, found, packed)


class _no_cores:  # noqa: N801 - reads as what it does
    """As a deployment has it: a process that crashes leaves no picture of its memory. Children inherit it."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, self._before)


def _places(pair: TalkativePair, known: Container[str]) -> Iterator[Place]:
    home, pids = pair.home, pair.pids(pair.home)
    yield Place(Kind.COLUMN, "home: pg_dump", _dump(home.database.superuser_url))
    yield from pair.places()
    yield from (Place(Kind.VALKEY, MEMORY, region) for region in memory_of(pids[VALKEY]))
    yield from open_files_of(home.name, pids)
    yield from new_files_in(TEMPORARY, known)


def _dump(url: str) -> bytes:
    spec = importlib.util.find_spec(POSTGRES_WHEEL)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    program = Path(spec.submodule_search_locations[0]) / POSTGRES_BINARIES / "pg_dump"
    return subprocess.run([program, url], check=True, capture_output=True).stdout


async def test_no_row_of_a_peer_is_left_at_the_gateway_that_read_it(searched: Searched, request: pytest.FixtureRequest) -> None:
    """Whatever was asked, however it ended, and whoever died meanwhile."""
    request.node.add_report_section("call", "searched", str(searched))
    assert searched.leaks == []


async def test_everything_was_searched(searched: Searched) -> None:
    """A place that vanished would make the search mean less than it says."""
    filled = {name for _, name, size in searched.places if size}
    assert [name for name in (*HOMES_FILES, MEMORY) if name not in filled] == []
    assert any("/pg_wal/" in name for name in filled)
    assert any(name.startswith("home: opened by edge-outbound: ") for name in filled)
    assert {kind for kind, _, _ in searched.places} >= set(Kind) - {Kind.REFUSAL}


async def test_what_is_there_is_found(searched: Searched) -> None:
    """A word that was planted is seen in every kind of place of that very gateway, and every row that was shown where it lives."""
    seen = [(kind, place) for found, kind, place in searched.found if found.canary.name.startswith("planted")]
    assert {kind for kind, _ in seen} == set(Kind)
    assert [kind for kind in AT_HOME if not any(each is kind and place.startswith("home") for each, place in seen)] == []
    places = {place for _, place in seen}
    assert {MEMORY, "home: pg_dump", "home/valkey/dump.rdb"} <= places
    assert any("/pg_wal/" in place for place in places)
    at_work = {found.canary.name for found, _, place in searched.found if place.startswith("work: ")}
    assert {f"row: of {name}" for name in REGISTRY} <= at_work


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "zlib"])
def test_what_is_packed_is_found(pack: Callable[[bytes], bytes]) -> None:
    """A compressed log, or a compressed value in the middle of a page."""
    canary = Canary("any", new_secret().encode())
    content = b"before" + pack(b"a row: " + canary.secret) + b"behind"
    assert {found.canary for each in unpacked(content) for found in Search([canary]).find(each)} == {canary}

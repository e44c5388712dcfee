"""Three peers, one slow, one down, one refusing, beside one that is well: for every verb, at the API and at the command line."""

import asyncio
import json
import os
import pty
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from google.protobuf.message import Message
from mosaic.federation.v1 import query_pb2
from mosaic.federation.v1.query_pb2 import QueryRequest, QueryResponse
from mosaic.grants.v1 import grants_pb2
from mosaic_cli.contexts import Context, Contexts, save
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common.identity import EDGE_OUTBOUND, GRANTS, OPERATOR

from tests.support.connections import connect, connect_to_stranger
from tests.support.federated_verbs import CAPABILITIES, GET, LIST, SEARCH, VERBS
from tests.support.gateway import Pair
from tests.support.lying_peer import LyingPeer
from tests.support.rows import Rows

pytestmark = pytest.mark.alone

OK, DENIED, TIMEOUT, UNAVAILABLE = (
    query_pb2.SOURCE_STATUS_OK,
    query_pb2.SOURCE_STATUS_DENIED,
    query_pb2.SOURCE_STATUS_TIMEOUT,
    query_pb2.SOURCE_STATUS_UNAVAILABLE,
)
SLOW_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Company:
    """A user of home with a row here, a row at work, and three connections that are not well.

    Attributes:
        slow: has been asked by whoever is waited for.
    """

    user: UUID
    here: str
    there: str
    slow: LyingPeer


@pytest.fixture(scope="module")
async def company(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Company]:
    home, work = pair.home, pair.work
    with home.database.connect() as at_home, work.database.connect() as at_work:
        rows, theirs = Rows(at_home), Rows(at_work)
        user, subject = rows.user(), theirs.user()
        here, there = rows.resource("tasks", user), theirs.resource("tasks", subject)

    async def take_long(_request: Message, _context: Any) -> Message:
        await asyncio.sleep(SLOW_SECONDS)
        raise AssertionError

    async with LyingPeer.start(tmp_path_factory.mktemp("slow"), "slow", take_long) as slow:
        await connect(home, user, work, remote_user=str(subject), name="healthy")
        revoked = await connect(home, user, work, remote_user=str(subject), name="refusing")
        await work.grants.RevokeGrant(grants_pb2.RevokeGrantRequest(id=revoked), metadata=work.operator_metadata())
        nobody = f"127.0.0.1:{choose_free_ports(1)[0]}"
        await connect_to_stranger(home, user, name="down", endpoint=nobody, root_pem=slow.root_pem)
        await connect_to_stranger(home, user, name="slow", endpoint=slow.address, root_pem=slow.root_pem)
        yield Company(user, str(here), str(there), slow)


EXPECTED: Final = {
    "local": (OK, ""),
    "federated:down": (UNAVAILABLE, ""),
    "federated:healthy": (OK, ""),
    "federated:refusing": (DENIED, "GRANT_NOT_ACTIVE"),
    "federated:slow": (TIMEOUT, ""),
}


async def test_whoever_is_well_is_heard_in_time(pair: Pair, company: Company) -> None:
    """Four verbs at once, each within its deadline: the rows of the healthy, the right status of each, and partial."""
    home, stub = pair.home, pair.home.queries

    async def ask(request: QueryRequest) -> QueryResponse:
        answer = await stub.Query(request, metadata=home.user_metadata(company.user), timeout=3)
        assert isinstance(answer, QueryResponse)
        return answer

    begun = time.monotonic()
    listed, got, searched, capable = await asyncio.gather(
        ask(LIST.query()), ask(GET.query(id=company.there)), ask(SEARCH.query(query="title")), ask(CAPABILITIES.query())
    )
    assert time.monotonic() - begun < 3

    both = {(company.here, "local"), (company.there, "federated:healthy")}
    assert {(row.id, row.source) for row in listed.rows} == both
    assert [(row.id, row.source) for row in got.rows] == [(company.there, "federated:healthy")]
    assert [(hit.resource.id, hit.resource.source) for hit in searched.hits] == sorted(both, key=lambda row: row[1], reverse=True)
    assert {each.source for each in capable.sources if each.HasField("capabilities")} == {"local", "federated:healthy"}
    for answer in (listed, got, searched, capable):
        told = {each.source: (each.status, each.reason) for each in answer.sources}
        assert told == EXPECTED | ({"local": (OK, "RESOURCE_NOT_FOUND")} if answer is got else {})
        assert answer.partial
        assert all(0 <= each.latency_us < 3_000_000 for each in answer.sources)
    assert len(company.slow.asked) == len(VERBS)


@pytest.fixture(scope="module")
def contexts(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The context file of whoever queries at home."""
    home, operator = pair.home, pair.home.pki / OPERATOR
    file = tmp_path_factory.mktemp("contexts") / "contexts.json"
    context = Context(
        gateway=home.name,
        operator_address=home.addresses[GRANTS, "operator"],
        user_address=home.addresses[EDGE_OUTBOUND, "user"],
        root=operator / "service-root.pem",
        jwt_key=operator / "jwt.key",
    )
    save(file, Contexts(current=home.name, contexts={home.name: context}))
    return file


class QueryCommand:
    """`mosaic federation query`, a process of its own beside the gateways in this loop."""

    def __init__(self, contexts: Path, user: UUID, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "mosaic_cli", "federation", "query", *arguments, "--user", str(user)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOSAIC_")}
        self._environment = {**inherited, "MOSAIC_CONTEXTS": str(contexts), "COLUMNS": "160", "TERM": "xterm"}

    async def in_a_pipe(self) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *self._command, env=self._environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        stdout, stderr = await process.communicate()
        return process.returncode, stdout.decode(), stderr.decode()

    async def on_a_terminal(self, wanted: str) -> tuple[int | None, str, str]:
        """The exit code, what was shown until ``wanted`` was there, and all of it."""
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *self._command, env=self._environment, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        seen, until = b"", ""
        try:
            while chunk := await asyncio.to_thread(os.read, master, 65_536):
                seen += chunk
                if not until and wanted.encode() in seen:
                    until = _plain(seen)
        except OSError:  # what Linux answers when nobody has the other end open any more
            pass
        finally:
            os.close(master)
        return await process.wait(), until, _plain(seen)


def _plain(shown: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


async def test_a_program_gets_one_document_in_time(contexts: Path, company: Company) -> None:
    """As JSON: the healthy rows, `_partial`, each source's status and reason; exit code 0, and a warning beside it."""
    begun = time.monotonic()
    code, stdout, stderr = await QueryCommand(contexts, company.user, "tasks", "--source", "all", "-o", "json").in_a_pipe()
    assert time.monotonic() - begun < SLOW_SECONDS
    answer = json.loads(stdout)
    assert code == 0
    assert {(row["id"], row["_source"]) for row in answer["rows"]} == {
        (company.here, "local"),
        (company.there, "federated:healthy"),
    }
    assert answer["_partial"] is True
    assert {each["source"]: (each["status"], each["reason"]) for each in answer["sources"]} == {
        "local": ("ok", None),
        "federated:down": ("unavailable", None),
        "federated:healthy": ("ok", None),
        "federated:refusing": ("denied", "GRANT_NOT_ACTIVE"),
        "federated:slow": ("timeout", None),
    }
    assert "PARTIAL ANSWER" in stderr
    assert company.there not in stderr


async def test_a_person_sees_rows_before_the_slow_one_is_given_up(contexts: Path, company: Company) -> None:
    """On a terminal: the healthy rows are there while the slow one is still waited for, and the end says who is missing."""
    asked_before = len(company.slow.asked)
    begun = time.monotonic()
    code, until, shown = await QueryCommand(contexts, company.user, "tasks", "--source", "all").on_a_terminal(company.there)
    assert time.monotonic() - begun < SLOW_SECONDS
    assert code == 0
    assert company.there in until
    assert "timeout" not in until
    assert company.here in shown
    assert len(company.slow.asked) == asked_before + 1
    assert "GRANT_NOT_ACTIVE" in shown
    [warning] = [line for line in shown.splitlines() if "PARTIAL ANSWER" in line]
    for missing in ("federated:down (unavailable)", "federated:refusing (denied)", "federated:slow (timeout)"):
        assert missing in " ".join(shown[shown.index(warning) :].split())
    assert "Traceback" not in shown

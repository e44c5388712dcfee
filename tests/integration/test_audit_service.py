"""The record as operators meet it: listed, shown, exported and verified by the CLI, over a gateway's own listeners."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode
from mosaic.audit.v1 import audit_pb2, audit_pb2_grpc
from mosaic.grants.v1 import ledger_pb2, ledger_pb2_grpc
from mosaic_cli.contexts import Context, Contexts, save
from mosaic_common.audit import Event
from mosaic_common.auth import Role
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, GRANTS, OPERATOR

from tests.support.connections import connect
from tests.support.gateway import Gateway, Pair
from tests.support.peers import PeerClient, refusal

MAYA: Final = "maya@example.com"


def service(gateway: Gateway) -> Any:
    return audit_pb2_grpc.AuditServiceStub(gateway.channel(GRANTS, "operator"))


async def listed(gateway: Gateway, **wanted: Any) -> list[audit_pb2.AuditRow]:
    """Every row that a question finds, over pages of three."""
    rows: list[audit_pb2.AuditRow] = []
    request = audit_pb2.ListAuditRowsRequest(page_size=3, **wanted)
    while True:
        answer = await service(gateway).ListAuditRows(request, metadata=gateway.operator_metadata(Role.READ))
        rows += answer.rows
        if not answer.next_page_token:
            return rows
        request.page_token = answer.next_page_token


@dataclass(frozen=True, slots=True)
class Ran:
    exit_code: int
    stdout: str
    stderr: str


async def mosaic(gateway: Gateway, folder: Path, *arguments: str) -> Ran:
    """The CLI as an operator of this gateway runs it, a process of its own."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mosaic_cli", *arguments, env=environment_of(gateway, folder), stdout=PIPE, stderr=PIPE
    )
    stdout, stderr = await running.communicate()
    return Ran(running.returncode or 0, stdout.decode(), stderr.decode())


def environment_of(gateway: Gateway, folder: Path) -> dict[str, str]:
    """With a context of this gateway."""
    context = Context(
        gateway=gateway.name,
        operator_address=gateway.addresses[GRANTS, "operator"],
        user_address="",
        root=gateway.pki / OPERATOR / "service-root.pem",
        jwt_key=gateway.pki / OPERATOR / "jwt.key",
    )
    contexts = folder / f"contexts-{gateway.name}.json"
    save(contexts, Contexts(current=gateway.name, contexts={gateway.name: context}))
    return {**os.environ, "MOSAIC_CONTEXTS": str(contexts)}


def looked_at(file: Path) -> tuple[int, list[str]]:
    """Its mode, and what stands beside it under a like name."""
    return file.stat().st_mode & 0o777, [each.name for each in file.parent.iterdir() if file.name in each.name]


@pytest.fixture(scope="module")
async def peer(pair: Pair) -> PeerClient:
    """A peer of work that has read twice and was refused once."""
    peer = await pair.work.enroll(user=MAYA, peer="auditor", scope={"resources": ["tasks"], "max_rows_per_query": 50})
    await peer.list("tasks")
    await peer.list("tasks")
    await refusal(peer.list("notes"))
    return peer


async def test_rows_are_found_by_what_they_are_about(pair: Pair, peer: PeerClient) -> None:
    """Each filter by itself and together, newest first, over as many pages as it takes."""
    work = pair.work
    of_grant = await listed(work, grant_id=peer.grant_id)
    times = [row.time_us for row in of_grant]
    assert times == sorted(times, reverse=True)
    reads = [row for row in of_grant if row.event == "read"]
    assert [(row.outcome, row.resource, row.denied_reason) for row in reads] == [
        ("denied", "notes", "RESOURCE_NOT_GRANTED"),
        ("allowed", "tasks", ""),
        ("allowed", "tasks", ""),
    ]
    assert await listed(work, grant_id=peer.grant_id, event="read") == reads
    assert await listed(work, grant_id=peer.grant_id, event="grant.") == [row for row in of_grant if row.event == "grant.created"]
    assert await listed(work, grant_id=peer.grant_id, outcome="denied") == reads[:1]
    assert await listed(work, grant_id=peer.grant_id, denied_reason="RESOURCE_NOT_GRANTED") == reads[:1]
    assert await listed(work, peer="auditor", event="read") == reads
    assert await listed(work, user=MAYA, peer="auditor", event="read") == reads
    assert await listed(work, user=str(uuid4())) == []
    assert await listed(work, request_id=reads[1].request_id) == [reads[1]]
    assert await listed(work, actor=reads[0].actor, event="read") == reads
    assert await listed(work, grant_id=peer.grant_id, event="read", since_us=reads[1].time_us) == reads[:2]
    assert await listed(work, grant_id=peer.grant_id, event="read", until_us=reads[1].time_us) == reads[2:]


async def test_a_row_is_told_whole(pair: Pair, peer: PeerClient) -> None:
    """Every column as it is stored."""
    [row] = await listed(pair.work, grant_id=peer.grant_id, outcome="denied")
    request = audit_pb2.GetAuditRowRequest(request_id=row.request_id)
    answer = await service(pair.work).GetAuditRow(request, metadata=pair.work.operator_metadata(Role.READ))
    assert list(answer.rows) == [row]
    [stored] = [each for each in pair.work.audit("read") if str(each["request_id"]) == row.request_id]
    message: Any = row
    for name, value in stored.items():
        told = getattr(message, name) if value is not None else message.HasField(name) or None
        assert told == (str(value) if isinstance(value, UUID) else value), name


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("ListAuditRows", {"outcome": "maybe"}, StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        ("ListAuditRows", {"denied_reason": "RATE_LIMIT"}, StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        ("ListAuditRows", {"event": "reed"}, StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        ("ListAuditRows", {"event": "grants."}, StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        ("ListAuditRows", {"event": "grant"}, StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        ("ListAuditRows", {"since_us": 2, "until_us": 1}, StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        ("ListAuditRows", {"page_size": -1}, StatusCode.INVALID_ARGUMENT, "PAGE_SIZE_INVALID"),
        ("ListAuditRows", {"page_token": "AAAA"}, StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
        (
            "ListAuditRows",
            {"page_token": "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OjAwOjE="},
            StatusCode.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
        ),
        ("ListAuditRows", {"peer": "nobody"}, StatusCode.NOT_FOUND, "PEER_NOT_FOUND"),
        ("ListAuditRows", {"grant_id": "nothing"}, StatusCode.NOT_FOUND, "GRANT_NOT_FOUND"),
        ("ListAuditRows", {"actor": "a\nb"}, StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        ("GetAuditRow", {"request_id": "x"}, StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        ("GetAuditRow", {"request_id": str(UUID(int=5))}, StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"),
        ("ExportAudit", {"page_token": "e30="}, StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
        ("ExportAudit", {"page_size": -1}, StatusCode.INVALID_ARGUMENT, "PAGE_SIZE_INVALID"),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    pair: Pair, method: str, request_: dict[str, Any], code: StatusCode, reason: str
) -> None:
    """With its reason, and an audit row of the refused call."""
    kind = getattr(audit_pb2, f"{method}Request")
    refused = await refusal(getattr(service(pair.work), method)(kind(**request_), metadata=pair.work.operator_metadata()))
    assert (refused.code, refused.reason) == (code, reason)
    [row] = [each for each in pair.work.audit(Event.CALL_REFUSED) if str(each["request_id"]) == refused.metadata["request_id"]]
    assert row["denied_reason"] == reason


async def test_the_cli_exports_what_it_verifies(pair: Pair, peer: PeerClient, tmp_path: Path) -> None:
    """`export`, then `verify` with the public key and nothing else; an edited file is refused with its place and exit code 1."""
    await sealed(pair.work, peer.grant_id)
    file, key = tmp_path / "audit.ndjson", str(pair.work.pki / OPERATOR / "audit.pub")
    exported = await mosaic(pair.work, tmp_path, "federation", "audit", "export", "--out", str(file))
    assert exported.exit_code == 0, exported.stderr
    assert looked_at(file) == (0o600, ["audit.ndjson"])

    holds = await mosaic(pair.work, tmp_path, "-o", "json", "federation", "audit", "verify", str(file), "--key", key)
    account = json.loads(holds.stdout)
    assert (holds.exit_code, account["holds"]) == (0, True)
    assert account["rows"] >= 3
    assert account["grant_heads"] >= 1

    lines = file.read_bytes().splitlines(keepends=True)
    [at] = [at for at, line in enumerate(lines) if b"RESOURCE_NOT_GRANTED" in line and peer.grant_id.encode() in line]
    lines[at] = lines[at].replace(b'"denied_reason":"RESOURCE_NOT_GRANTED"', b'"denied_reason":"RATE_LIMITED"')
    file.write_bytes(b"".join(lines))
    broken = await mosaic(pair.work, tmp_path, "-o", "json", "federation", "audit", "verify", str(file), "--key", key)
    error = json.loads(broken.stdout)["error"]
    assert (broken.exit_code, error["reason"]) == (1, "AUDIT_BROKEN")
    assert {"field": "line", "description": str(at + 1)} in error["violations"]
    assert "altered" in error["message"]


async def test_the_cli_shows_rows(pair: Pair, peer: PeerClient, tmp_path: Path) -> None:
    """`tail` ends with the newest row of those that are asked for; `show` has all of one request."""
    told = await mosaic(pair.work, tmp_path, "federation", "audit", "tail", "--grant", peer.grant_id, "--event", "read", "-n", "2")
    assert told.exit_code == 0, told.stderr
    assert told.stdout.index("allowed") < told.stdout.index("RESOURCE_NOT_GRANTED")
    document = json.loads(
        (await mosaic(pair.work, tmp_path, "-o", "json", "federation", "audit", "tail", "--grant", peer.grant_id, "-n", "1")).stdout
    )
    assert document["truncated"]
    [row] = document["rows"]
    shown = await mosaic(pair.work, tmp_path, "federation", "audit", "show", row["request_id"])
    assert shown.exit_code == 0
    assert row["hash"] in shown.stdout


async def test_the_cli_follows(pair: Pair, peer: PeerClient, tmp_path: Path) -> None:
    """`tail -f` goes on with what comes, each row once, one JSON document per line."""
    tail = ("-o", "json", "federation", "audit", "tail", "-f", "-n", "1", "--grant", peer.grant_id, "--event", "read")
    async with asyncio.timeout(20):
        following = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mosaic_cli", *tail, env=environment_of(pair.work, tmp_path), stdout=PIPE, stderr=PIPE
        )
        try:
            assert following.stdout is not None
            first = json.loads(await following.stdout.readline())
            await peer.list("tasks")
            second = json.loads(await following.stdout.readline())
        finally:
            following.kill()
            await following.communicate()
    assert (second["outcome"], second["resource"]) == ("allowed", "tasks")
    assert second["request_id"] != first["request_id"]


async def sealed(gateway: Gateway, grant_id: str) -> tuple[int, bytes]:
    """The grant's head once all its rows are countersigned: rows and hash."""
    async with asyncio.timeout(10):
        while True:
            counted = gateway.rows(
                """SELECT h.rows, h.hash, (SELECT count(*) FROM federation.federation_audit_log WHERE grant_id = %s)
                   FROM federation.federation_audit_grant_heads h WHERE h.grant_id = %s ORDER BY h.rows DESC LIMIT 1""",
                grant_id,
                grant_id,
            )
            if counted and counted[0][0] == counted[0][2]:
                return counted[0][0], counted[0][1]
            await asyncio.sleep(0.05)


async def test_the_edge_hears_a_grants_head_with_its_view(pair: Pair, peer: PeerClient) -> None:
    """ResolveGrant answers the latest head; a grant that was never heard of has none."""
    rows, digest = await sealed(pair.work, peer.grant_id)
    stub = ledger_pb2_grpc.GrantResolverServiceStub(pair.work.internal_channel(GRANTS, caller=EDGE_INBOUND))
    head = (await stub.ResolveGrant(ledger_pb2.ResolveGrantRequest(grant_id=peer.grant_id))).view.audit_head
    assert (head.grant_id, head.rows, head.hash, len(head.signature)) == (peer.grant_id, rows, digest, 64)


class TestHeadsOfOtherGateways:
    """What home keeps of what work says of its record."""

    @pytest.fixture
    async def connection(self, pair: Pair) -> tuple[UUID, str, str]:
        """A fresh user of home, their connection, and the grant that it uses at work."""
        [(user,)] = pair.home.rows(
            "INSERT INTO public.users (email, name) VALUES (gen_random_uuid()::text, 'Somebody') RETURNING id"
        )
        grant_id = await connect(pair.home, user, pair.work, remote_user=MAYA)
        [(peer_id,)] = pair.home.rows("SELECT id::text FROM federation.federation_peers WHERE local_user_id = %s", user)
        return user, peer_id, grant_id

    async def report(self, home: Gateway, connection: tuple[UUID, str, str], **head: Any) -> None:
        user, peer_id, grant_id = connection
        told = {"grant_id": grant_id, "hash": bytes(32), "signature": bytes(64), **head}
        stub = ledger_pb2_grpc.PeerCredentialServiceStub(home.internal_channel(GRANTS, caller=EDGE_OUTBOUND))
        token = dict(home.user_metadata(user))["authorization"].removeprefix("Bearer ")
        request = ledger_pb2.ReportConnectionRequest(user_token=token, peer_id=peer_id, audit_head=audit_pb2.GrantAuditHead(**told))
        await stub.ReportConnection(request)

    def kept(self, home: Gateway, connection: tuple[UUID, str, str]) -> list[tuple[int, bool]]:
        return home.rows(
            "SELECT rows, contradicts FROM federation.federation_received_grant_heads WHERE peer_id = %s ORDER BY rows",
            connection[1],
        )

    async def test_the_last_ten_are_kept(self, pair: Pair, connection: tuple[UUID, str, str]) -> None:
        """Each with its signature, for whoever has the other gateway's key; one that is told again costs nothing."""
        for rows in range(1, 13):
            for _ in range(2):
                await self.report(pair.home, connection, rows=rows, time_us=rows)
        assert self.kept(pair.home, connection) == [(rows, False) for rows in range(3, 13)]

    async def test_an_older_answer_that_comes_late_accuses_nobody(self, pair: Pair, connection: tuple[UUID, str, str]) -> None:
        """Answers of two replicas overtake each other."""
        await self.report(pair.home, connection, rows=5, time_us=50)
        await self.report(pair.home, connection, rows=3, time_us=30)
        assert self.kept(pair.home, connection) == [(5, False)]

    @pytest.mark.parametrize(
        "told",
        [
            pytest.param({"rows": 5, "time_us": 50, "hash": b"\x01" * 32}, id="another hash over as many rows"),
            pytest.param({"rows": 4, "time_us": 60}, id="fewer rows, later"),
            pytest.param({"rows": 6, "time_us": 40}, id="more rows, earlier"),
        ],
    )
    async def test_a_rewritten_record_is_kept_as_evidence(
        self, pair: Pair, connection: tuple[UUID, str, str], told: dict[str, Any]
    ) -> None:
        """What contradicts an earlier head stands beside it, and is in the audit log, once."""
        await self.report(pair.home, connection, rows=5, time_us=50)
        for _ in range(2):
            await self.report(pair.home, connection, **told)
        assert self.kept(pair.home, connection) == sorted([(5, False), (told["rows"], True)])
        [row] = [each for each in pair.home.audit(Event.CONNECTION_CONTRADICTED) if str(each["peer_id"]) == connection[1]]
        assert (row["outcome"], row["denied_layer"], row["denied_reason"]) == ("denied", "peer", "AUDIT_CHAIN_BROKEN")

    @pytest.mark.parametrize(
        "told",
        [
            pytest.param({"grant_id": str(UUID(int=7))}, id="another grant"),
            pytest.param({"grant_id": "no grant"}, id="no grant at all"),
            pytest.param({"hash": bytes(31)}, id="no hash"),
            pytest.param({"signature": b""}, id="no signature"),
            pytest.param({"rows": 0}, id="no rows"),
        ],
    )
    async def test_what_is_no_head_of_this_grant_is_left(
        self, pair: Pair, connection: tuple[UUID, str, str], told: dict[str, Any]
    ) -> None:
        """A lying gateway fills no table; the report itself is taken."""
        await self.report(pair.home, connection, **{"rows": 1, "time_us": 1, **told})
        assert self.kept(pair.home, connection) == []

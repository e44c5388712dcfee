"""The denial table of contracts.md for reads: every row × every verb, from one table.

Each case is asserted whole: gRPC code, reason, HTTP class, every detail of the answer and every column of its audit row. What the
ledger decides is tried twice: by an edge that first hears of the grant, which must not even ask the database, and by the database,
under an edge that believes the grant to be live. Both answers are equal to the byte.

Beside it: certificates and handshakes in test_denials_certificates.py; how a serial gets from the CRL into the ledger in
tests/integration/test_revocations.py.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import grpc
import pytest
from mosaic_common.audit import Outcome
from mosaic_common.db.sqlstates import CALL_OUT_OF_BOUNDS
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer
from mosaic_common.identity import EDGE_INBOUND, GRANTS
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID
from mosaic_common.page_tokens import LIFETIME, PageBinding, PagePosition, PageTokens, QueryHasher
from mosaic_common.rpc.status import internal_error
from mosaic_federation_edge.domain.limits import DEFAULT_LIMITS, Limits
from mosaic_federation_edge.domain.rate_limit import Rate

from tests.support import authorities as lies
from tests.support.authorities import Lie
from tests.support.clock import FakeClock
from tests.support.denials import SCOPE, Change, Denial, Edge, Holder, in_turn, path_of, refused, sql
from tests.support.gateway import Gateway
from tests.support.raw_caller import RawCaller, ResumingTls
from tests.support.rows import Rows

UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
VERBS: Final = tuple(Verb)


@pytest.fixture(scope="module")
def rows(work: Gateway) -> Iterator[Rows]:
    with work.database.connect_superuser() as everything:
        yield Rows(everything)


@pytest.fixture(scope="module")
async def edge(work: Gateway, rows: Rows) -> AsyncIterator[Edge]:
    """One for all cases: each has its own grant."""
    async with Edge.serve(work, rows) as serving:
        yield serving


def function_of(verb: Verb, resource: str = "tasks") -> str:
    return verb.value if verb is Verb.CAPABILITIES else f"{verb.value}_{resource}"


# ── what the ledger says of grant, peer, certificate and subject ──────────────────────────────────────────────────────────────────

GRANT_NOT_ACTIVE: Final = Denial(PERMISSION_DENIED, 403, "GRANT_NOT_ACTIVE", Layer.GRANT)
GRANT_REVOKED: Final = replace(GRANT_NOT_ACTIVE, told={"grant_status": "revoked"})
GRANT_EXPIRED: Final = replace(GRANT_NOT_ACTIVE, told={"grant_status": "expired"})
NOT_PINNED: Final = Denial(UNAUTHENTICATED, 401, "CERTIFICATE_NOT_PINNED", Layer.CERTIFICATE)
PEER_NOT_ACTIVE: Final = Denial(PERMISSION_DENIED, 403, "PEER_NOT_ACTIVE", Layer.PEER)
CERTIFICATE_REVOKED: Final = Denial(UNAUTHENTICATED, 401, "CERTIFICATE_REVOKED", Layer.CERTIFICATE)
NOT_ACCEPTED: Final = Denial(UNAUTHENTICATED, 401, "CERTIFICATE_NOT_ACCEPTED", Layer.CERTIFICATE)
SUBJECT_MISMATCH: Final = Denial(PERMISSION_DENIED, 403, "SUBJECT_MISMATCH", Layer.SUBJECT)
SUBJECT_INACTIVE: Final = Denial(PERMISSION_DENIED, 403, "SUBJECT_INACTIVE", Layer.SUBJECT)
NOT_GRANTED: Final = Denial(PERMISSION_DENIED, 403, "RESOURCE_NOT_GRANTED", Layer.SCOPE)

_GRANT, _PEER = "UPDATE federation.federation_grants SET", "UPDATE federation.federation_peers SET"
_CERTIFICATE: Final = "UPDATE federation.federation_certificates SET"
unknown: Final = sql(
    "SET session_replication_role = replica",  # what was ever active cannot be deleted
    "DELETE FROM federation.federation_certificates WHERE grant_id = %(grant)s",
    "DELETE FROM federation.federation_grants WHERE id = %(grant)s",
    "RESET session_replication_role",
)
pending: Final = sql(f"{_GRANT} status = 'pending' WHERE id = %(grant)s")
unpinned: Final = sql(f"{_CERTIFICATE} fingerprint_sha256 = sha256(fingerprint_sha256) WHERE grant_id = %(grant)s")
grant_revoked: Final = sql(f"{_GRANT} status = 'revoked', revoked_at = now() WHERE id = %(grant)s")
grant_expired: Final = sql(f"{_GRANT} status = 'expired' WHERE id = %(grant)s")
grant_over: Final = sql(f"{_GRANT} expires_at = now() WHERE id = %(grant)s")
peer_suspended: Final = sql(f"{_PEER} state = 'suspended' WHERE id = %(peer)s")
certificate_revoked: Final = sql(f"{_CERTIFICATE} state = 'revoked', revoked_at = now() WHERE grant_id = %(grant)s")
disabled: Final = sql("UPDATE public.users SET active = false WHERE id = %(subject)s")


def superseded(ago: str) -> Change:
    return sql(f"{_CERTIFICATE} state = 'superseded', superseded_at = now() - interval '{ago}' WHERE grant_id = %(grant)s")


def scope(document: str) -> Change:
    return sql(f"{_GRANT} scope = '{document}' WHERE id = %(grant)s")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the ledger says.

    Attributes:
        known: whether an edge that asks now learns whose the certificate is.
    """

    change: Change
    denial: Denial
    known: bool = True


LEDGER: Final = {
    "grant unknown": Standing(unknown, GRANT_NOT_ACTIVE, known=False),
    "grant pending, though pinned": Standing(pending, GRANT_NOT_ACTIVE),
    "grant pending": Standing(in_turn([pending, unpinned]), GRANT_NOT_ACTIVE, known=False),
    "grant revoked": Standing(grant_revoked, GRANT_REVOKED),
    "grant marked expired": Standing(grant_expired, GRANT_EXPIRED),
    "grant past its end": Standing(grant_over, GRANT_EXPIRED),
    "never pinned": Standing(unpinned, NOT_PINNED, known=False),
    "never pinned, grant revoked": Standing(in_turn([unpinned, grant_revoked]), NOT_PINNED, known=False),
    "never pinned, grant expired": Standing(in_turn([unpinned, grant_expired]), NOT_PINNED, known=False),
    "peer pending": Standing(sql(f"{_PEER} state = 'pending' WHERE id = %(peer)s"), PEER_NOT_ACTIVE),
    "peer suspended": Standing(peer_suspended, PEER_NOT_ACTIVE),
    "peer revoked": Standing(sql(f"{_PEER} state = 'revoked', revoked_at = now() WHERE id = %(peer)s"), PEER_NOT_ACTIVE),
    "certificate superseded more than a day ago": Standing(superseded("24 hours 1 second"), CERTIFICATE_REVOKED),
    "certificate revoked, or on the CRL": Standing(certificate_revoked, CERTIFICATE_REVOKED),
    "certificate's end moved": Standing(
        sql(f"{_CERTIFICATE} not_after = now() - interval '1 second' WHERE grant_id = %(grant)s"), NOT_ACCEPTED
    ),
    "subject gone": Standing(sql("DELETE FROM public.users WHERE id = %(subject)s"), SUBJECT_INACTIVE),
    "subject disabled": Standing(disabled, SUBJECT_INACTIVE),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("situation", LEDGER)
async def test_what_the_ledger_refuses(edge: Edge, situation: str, verb: Verb) -> None:
    """By the edge, before it asks the database; by the database, while the edge believes the grant to be live; in one voice."""
    standing = LEDGER[situation]
    async with edge.holder() as early:
        standing.change(early)
        with edge.relay.noting() as asked:
            by_edge = await early.refused(verb)
        assert asked.reads == []
        by_edge.assert_is(standing.denial)
        early.assert_recorded(by_edge, verb, standing.denial, of_peer=standing.known)

    async with edge.holder() as late:
        await late.ask(Verb.CAPABILITIES)
        standing.change(late)
        with edge.relay.noting() as asked:
            by_database = await late.refused(verb)
        assert asked.functions == [function_of(verb)]
        late.assert_recorded(by_database, verb, standing.denial, hashed=verb is not Verb.CAPABILITIES)
    assert by_database.comparable == by_edge.comparable


@pytest.mark.parametrize("verb", VERBS)
async def test_a_certificate_that_names_another_user(edge: Edge, verb: Verb) -> None:
    """Subject swap: even pinned, it reads neither the grant's rows nor those of whom it names."""
    async with edge.holder(names=edge.rows.user()) as swapped:
        answer = await swapped.refused(verb)
        answer.assert_is(SUBJECT_MISMATCH)
        swapped.assert_recorded(answer, verb, SUBJECT_MISMATCH)


@pytest.mark.parametrize("verb", VERBS)
async def test_what_is_live_is_answered(edge: Edge, verb: Verb) -> None:
    """The same calls of the same holder before anything changes: what is refused above is so for its own reason."""
    async with edge.holder() as live:
        with edge.relay.noting() as asked:
            answer = await live.ask(verb)
        assert asked.functions == [function_of(verb)]
        [row] = edge.records_of(live)
        assert (row["outcome"], row["result_count"]) == ("allowed", 0 if verb is Verb.CAPABILITIES else 1)
        assert row["bytes_out"] == answer.ByteSize()
        superseded("23 hours 59 minutes")(live)
        assert await live.ask(verb)


# ── what the certificate itself says, on a connection that the handshake let in ───────────────────────────────────────────────────

OIDS: Final = {
    "no EKU": (lies.without_eku, NOT_ACCEPTED),
    "no OID": (lies.without_identifiers, replace(NOT_ACCEPTED, reason="CERTIFICATE_OID_MISSING")),
    "an OID twice": (lies.double(SUBJECT_USER_ID_OID), replace(NOT_ACCEPTED, reason="CERTIFICATE_OID_MALFORMED")),
    "an OID as PrintableString": (
        lies.as_printable_string(GRANT_ID_OID),
        replace(NOT_ACCEPTED, reason="CERTIFICATE_OID_MALFORMED"),
    ),
    "an OID of 16 raw bytes": (
        lies.with_value(GRANT_ID_OID, b"\x0c\x10" + bytes(16)),
        replace(NOT_ACCEPTED, reason="CERTIFICATE_OID_MALFORMED"),
    ),
    "an OID that is no UUID": (
        lies.with_value(GRANT_ID_OID, b"\x0c\x24" + b"g" * 36),
        replace(NOT_ACCEPTED, reason="CERTIFICATE_OID_MALFORMED"),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("situation", OIDS)
async def test_a_certificate_that_says_nothing_usable(edge: Edge, situation: str, verb: Verb) -> None:
    """Refused before a message is looked at, so the record knows neither verb nor grant; every spelling of it is
    tests/security/test_denials_certificates.py's."""
    lie, denial = OIDS[situation]
    async with edge.holder(lie) as nobody:
        with edge.relay.noting() as asked:
            answer = await nobody.refused(verb)
        assert asked.reads == []
        answer.assert_is(denial)
        nobody.assert_recorded(answer, None, denial, of_peer=False, identified=False)


# ── a certificate that expires on an open connection, a page token that grows old ─────────────────────────────────────────────────


async def test_a_certificate_expires_on_an_open_connection(work: Gateway, rows: Rows) -> None:
    """Every verb was answered on this connection a moment ago; after notAfter none is."""
    clock = FakeClock(datetime.now(UTC) - timedelta(minutes=1))
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)  # the handshake looks at a clock of its own
    async with Edge.serve(work, rows, clock=clock) as edge, edge.holder(lies.with_not_after(end)) as holder:
        clock.advance(end - clock.now() - timedelta(microseconds=1))
        for verb in VERBS:
            assert await holder.ask(verb)
        clock.advance(timedelta(microseconds=1))
        for verb in VERBS:
            answer = await holder.refused(verb)
            answer.assert_is(NOT_ACCEPTED)
            holder.assert_recorded(answer, None, NOT_ACCEPTED, of_peer=False, identified=False)


async def test_a_certificate_expires_before_its_session_is_resumed(work: Gateway, rows: Rows, tmp_path: Path) -> None:
    """A resumed handshake shows no certificate and is let in; the one that the session began with is looked at by each call."""
    clock = FakeClock(datetime.now(UTC) - timedelta(minutes=1))
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
    async with Edge.serve(work, rows, clock=clock) as edge, edge.holder(lies.with_not_after(end)) as holder:
        tls = ResumingTls.of(holder, tmp_path)
        for is_resumed in (False, True):
            async with RawCaller.connect(holder, tls) as caller:
                assert (await caller.call(caller.usual(path_of(Verb.LIST)), as_sent(holder, Verb.LIST))).grpc_status == 0
                assert caller.tls.session_reused is is_resumed
                tls.session = caller.tls.session
        clock.advance(end - clock.now())
        for verb in VERBS:
            async with RawCaller.connect(holder, tls) as caller:
                answer = await caller.call(caller.usual(path_of(verb)), as_sent(holder, verb))
                assert caller.tls.session_reused
            assert (answer.grpc_status, answer.info.reason) == (NOT_ACCEPTED.code.value[0], NOT_ACCEPTED.reason)
            assert dict(answer.info.metadata) == {"http_status": "401", "request_id": answer.info.metadata["request_id"]}
            [row] = edge.recorded(answer.info.metadata["request_id"])
            assert (row["outcome"], row["denied_layer"], row["denied_reason"]) == ("denied", "certificate", NOT_ACCEPTED.reason)


def as_sent(holder: Holder, verb: Verb) -> bytes:
    return holder.request(verb).SerializeToString()


TOKEN_INVALID: Final = Denial(INVALID_ARGUMENT, 400, "PAGE_TOKEN_INVALID", Layer.REQUEST)
TOKEN_EXPIRED: Final = replace(TOKEN_INVALID, reason="PAGE_TOKEN_EXPIRED")


async def test_a_page_token_expires(work: Gateway, rows: Rows) -> None:
    """To the microsecond after ten minutes; and only whom it was made for hears that it was good."""
    clock = FakeClock(datetime.now(UTC) - timedelta(minutes=20))  # the database records nothing that lies 5 minutes ahead
    async with Edge.serve(work, rows, clock=clock) as edge, edge.holder() as holder, edge.holder() as other:
        token = await a_page_token(holder)
        clock.advance(LIFETIME - timedelta(microseconds=1))
        assert await holder.ask(Verb.LIST, page_token=token)
        clock.advance(timedelta(microseconds=1))
        for whose, denial in ((holder, TOKEN_EXPIRED), (other, TOKEN_INVALID)):
            answer = await whose.refused(Verb.LIST, page_token=token)
            answer.assert_is(denial)
            whose.assert_recorded(answer, Verb.LIST, denial, hashed=True)


# ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Request:
    """A request that a live grant does not answer.

    Attributes:
        fields: in place of those of the request that is answered.
        resource: as it is on record.
        hashed: it was understood as far as a query.
    """

    verb: Verb
    denial: Denial
    fields: Mapping[str, Any]
    resource: str = "tasks"
    hashed: bool = False


EXCLUDING: Final = {**SCOPE, "excluded_resources": ["api_keys"]}
UNKNOWN: Final = Denial(INVALID_ARGUMENT, 400, "RESOURCE_UNKNOWN", Layer.REQUEST, violations=("resource",))
UNKNOWN_SEARCHED: Final = replace(UNKNOWN, violations=("resources",))
PAGE_SIZE: Final = Denial(INVALID_ARGUMENT, 400, "PAGE_SIZE_INVALID", Layer.REQUEST, violations=("page_size",))
REQUEST_INVALID: Final = Denial(INVALID_ARGUMENT, 400, "REQUEST_INVALID", Layer.REQUEST)
NO_ORDER, NO_ID, NO_QUERY, NO_EMBEDDING = (
    replace(REQUEST_INVALID, violations=(name,)) for name in ("order", "id", "query", "embedding")
)


def for_each_verb(name: str, denial: Denial, searched: Denial | None = None) -> dict[str, Request]:
    """Of one resource that no verb may name."""
    return {
        "list": Request(Verb.LIST, denial, {"resource": name}, name),
        "get": Request(Verb.GET, denial, {"resource": name}, name),
        "search": Request(Verb.SEARCH, searched or denial, {"resources": [name]}, name),
        "search, among others": Request(Verb.SEARCH, searched or denial, {"resources": ["tasks", name]}, f"tasks,{name}"),
    }


REQUESTS: Final = {
    **{f"not in scope: {verb}": each for verb, each in for_each_verb("credentials", NOT_GRANTED).items()},
    **{f"excluded: {verb}": each for verb, each in for_each_verb("api_keys", NOT_GRANTED).items()},
    **{f"no such resource: {verb}": each for verb, each in for_each_verb("users", UNKNOWN, UNKNOWN_SEARCHED).items()},
    "no resource: list": Request(Verb.LIST, UNKNOWN, {"resource": ""}, ""),
    "no resource: get": Request(Verb.GET, UNKNOWN, {"resource": ""}, ""),
    "no resource: search": Request(Verb.SEARCH, UNKNOWN_SEARCHED, {"resources": []}, ""),
    **{
        f"page size {size}: {verb.value}": Request(verb, PAGE_SIZE, {"page_size": size})
        for size in (-1, -(2**31))
        for verb in (Verb.LIST, Verb.SEARCH)
    },
    "no such order: list": Request(Verb.LIST, NO_ORDER, {"order": 99}),
    "no id: get": Request(Verb.GET, NO_ID, {"id": "1"}),
    "no query: search": Request(Verb.SEARCH, NO_QUERY, {"query": " "}),
    "no such embedding: search": Request(Verb.SEARCH, NO_EMBEDDING, {"resources": ["memory"], "embedding": [1.0]}, "memory"),
    "made-up page token: list": Request(Verb.LIST, TOKEN_INVALID, {"page_token": "A" * 119}, hashed=True),
}


@pytest.mark.parametrize("situation", REQUESTS)
async def test_what_the_request_is_refused_for(edge: Edge, situation: str) -> None:
    """Said to whoever holds a live grant, before the database is asked."""
    request = REQUESTS[situation]
    async with edge.holder(scope=EXCLUDING) as holder:
        with edge.relay.noting() as asked:
            answer = await holder.refused(request.verb, **request.fields)
        assert asked.reads == []
        answer.assert_is(request.denial)
        holder.assert_recorded(answer, request.verb, request.denial, resource=request.resource, hashed=request.hashed)


@pytest.mark.parametrize("verb", [Verb.LIST, Verb.GET, Verb.SEARCH])
@pytest.mark.parametrize(
    "narrowed",
    [
        pytest.param('{"resources": ["notes"], "max_rows_per_query": 5}', id="taken out"),
        pytest.param('{"resources": ["notes"], "excluded_resources": ["tasks"], "max_rows_per_query": 5}', id="excluded"),
    ],
)
async def test_a_scope_that_was_narrowed_is_the_databases_to_refuse(edge: Edge, narrowed: str, verb: Verb) -> None:
    """While the edge believes in the wider one; in the words that an edge has that knows."""
    async with edge.holder() as holder:
        await holder.ask(Verb.CAPABILITIES)
        scope(narrowed)(holder)
        with edge.relay.noting() as asked:
            answer = await holder.refused(verb)
        assert asked.functions == [function_of(verb)]
        answer.assert_is(NOT_GRANTED)
        holder.assert_recorded(answer, verb, NOT_GRANTED, hashed=True)
        by_edge = await holder.refused(
            verb, **({"resources": ["credentials"]} if verb is Verb.SEARCH else {"resource": "credentials"})
        )
        assert answer.comparable == by_edge.comparable
        assert await holder.ask(Verb.CAPABILITIES), "whoever holds a live grant may always ask what it is"


NOT_FOUND: Final = Denial(grpc.StatusCode.NOT_FOUND, 404, "RESOURCE_NOT_FOUND", Layer.ROW, recorded="ROW_NOT_VISIBLE")
OUT_OF_SCOPE: Final = replace(NOT_FOUND, layer=Layer.SCOPE, recorded="ROW_OUT_OF_SCOPE")


async def test_a_row_that_may_not_be_seen_is_not_there(edge: Edge) -> None:
    """Absent, somebody else's, of a team left, outside the filter: one answer to the byte, one statement.

    Which of them it was, only the record says. A row that may be seen costs the same.
    """
    rows = edge.rows
    filtered = {**SCOPE, "filters": {"tasks": {"include_personal": True}}}
    async with edge.holder(scope=filtered) as holder:
        colleague = rows.user()
        joined, left = rows.team(holder.subject, colleague), rows.team(colleague)
        cases = {
            "absent": (uuid4(), NOT_FOUND),
            "somebody else's": (rows.resource("tasks", colleague), NOT_FOUND),
            "of a team that the subject is not in": (rows.resource("tasks", colleague, left), NOT_FOUND),
            "of another resource": (holder.own["notes"], NOT_FOUND),
            "outside the filter": (rows.resource("tasks", colleague, joined), OUT_OF_SCOPE),
            "own, outside the filter": (rows.resource("tasks", holder.subject, left), OUT_OF_SCOPE),
        }
        with edge.relay.noting() as of_a_row:
            assert await holder.ask(Verb.GET)
        assert of_a_row.functions == ["get_tasks"]
        heard = set()
        for row_id, denial in cases.values():
            with edge.relay.noting() as asked:
                answer = await holder.refused(Verb.GET, id=str(row_id))
            answer.assert_is(denial)
            holder.assert_recorded(answer, Verb.GET, denial, hashed=True)
            assert asked.reads == of_a_row.reads
            heard.add(answer.comparable)
        assert len(heard) == 1


# ── page tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def a_page_token(holder: Holder) -> str:
    """Of a listing of tasks that has a second page."""
    holder.edge.rows.resource("tasks", holder.subject)
    answer = await holder.ask(Verb.LIST, page_size=1)
    assert answer.next_page_token
    return str(answer.next_page_token)


_FAR_AHEAD_US: Final = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals page tokens as this gateway's own code does, with its own keys."""

    tokens: PageTokens
    hasher: QueryHasher

    @classmethod
    def of(cls, work: Gateway) -> "Sealer":
        page, query = (
            base64.b64decode((work.pki / EDGE_INBOUND / f"{name}.key").read_bytes()) for name in ("page-token", "query-hmac")
        )
        return cls(PageTokens(page, work.clock), QueryHasher(query))

    def seal(self, holder: Holder, resource: str = "tasks", **differently: Any) -> str:
        """Of a listing of the holder's, from its beginning, but for what is bound differently."""
        verb = differently.get("verb", Verb.LIST)
        own = PageBinding(holder.grant_id, holder.fingerprint, verb, self.hasher.hash(verb, (resource,)), "newest_first")
        return self.tokens.seal(PagePosition(_FAR_AHEAD_US, bytes(16), 0), replace(own, **differently))


async def test_a_page_token_is_good_for_exactly_one_query(edge: Edge, work: Gateway) -> None:
    """Of another grant, certificate, verb, resource, order or key, or altered: the same answer, and the database is not asked.

    They are sealed with the gateway's own key and differ in one thing each; the one that differs in nothing is good.
    """
    sealer = Sealer.of(work)
    async with edge.holder() as holder, edge.holder() as other:
        good = sealer.seal(holder)
        assert len((await holder.ask(Verb.LIST, page_token=good)).resources) == 1
        foreign = {
            "another grant's": sealer.seal(holder, grant_id=other.grant_id),
            "another certificate's": sealer.seal(holder, fingerprint=other.fingerprint),
            "another holder's": await a_page_token(other),
            "a search's": sealer.seal(holder, verb=Verb.SEARCH),
            "a get's": sealer.seal(holder, verb=Verb.GET),
            "of notes": sealer.seal(holder, "notes"),
            "in another order": sealer.seal(holder, order="oldest_first"),
            "under another key": replace(sealer, tokens=PageTokens(bytes(32), work.clock)).seal(holder),
            "altered": good[:-3] + ("AAA" if good[-3:] != "AAA" else "BBB"),
            "shortened": good[:-1],
            "empty but for a space": " ",
            "with a NUL": good[:-1] + "\0",
            "of full-width letters": "Ａ" * len(good),
            "SQL": "' OR 1=1 --",
            "huge": "A" * 60_000,
        }
        heard = set()
        for name, token in foreign.items():
            with edge.relay.noting() as asked:
                answer = await holder.refused(Verb.LIST, page_token=token)
            assert (asked.reads, answer.reason) == ([], TOKEN_INVALID.reason), name
            answer.assert_is(TOKEN_INVALID)
            holder.assert_recorded(answer, Verb.LIST, TOKEN_INVALID, hashed=True)
            heard.add(answer.comparable)
        assert len(heard) == 1


# ── too often ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

RATE_LIMITED: Final = Denial(grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "RATE_LIMITED", Layer.RATE, retried=True)
RATE_LIMITED_AT_ONCE: Final = replace(RATE_LIMITED, layer=Layer.SOURCE)
ONE_A_MINUTE: Final = Rate(per_second=1 / 60, burst=1)


@pytest.mark.parametrize("verb", VERBS)
async def test_a_grant_that_asks_too_often(edge: Edge, verb: Verb) -> None:
    """Beyond its own limit it is refused before the database is asked, and told when to come back."""
    async with edge.holder() as holder, edge.holder() as other:
        sql(f"{_GRANT} rate_per_second = 1, rate_burst = 1 WHERE id = %(grant)s")(holder)
        await holder.ask(Verb.CAPABILITIES)
        with edge.relay.noting() as asked:
            answer = await holder.refused(verb)
        assert asked.reads == []
        answer.assert_is(RATE_LIMITED)
        holder.assert_recorded(answer, verb, RATE_LIMITED)
        assert await other.ask(verb), "another grant has its own"


async def test_a_peer_that_asks_too_often(work: Gateway, rows: Rows) -> None:
    """All grants of one peer share what it may ask; another peer's do not."""
    async with (
        Edge.serve(work, rows, limits=replace(DEFAULT_LIMITS, peer=ONE_A_MINUTE)) as edge,
        edge.holder() as first,
        edge.holder() as second,
        edge.holder() as stranger,
    ):
        sql(f"{_GRANT} peer_id = '{first.peer_id}' WHERE id = %(grant)s")(second)
        assert await first.ask(Verb.CAPABILITIES)
        same_peer = replace(second, peer_id=first.peer_id)
        for verb in VERBS:
            answer = await same_peer.refused(verb)
            answer.assert_is(RATE_LIMITED)
            same_peer.assert_recorded(answer, verb, RATE_LIMITED)
        assert await stranger.ask(Verb.LIST)


@pytest.mark.parametrize(
    ("limits", "of_all"),
    [
        pytest.param(replace(DEFAULT_LIMITS, certificate=ONE_A_MINUTE), False, id="certificate"),
        pytest.param(replace(DEFAULT_LIMITS, source=ONE_A_MINUTE), True, id="source"),
    ],
)
async def test_who_asks_too_often_is_refused_before_anything_else(work: Gateway, rows: Rows, limits: Limits, of_all: bool) -> None:
    """Whatever is asked, by whomever: nothing is looked up. The refusals share a row a second, which says how many they were."""
    async with Edge.serve(work, rows, limits=limits) as edge, edge.holder() as holder, edge.holder() as other:
        assert await holder.ask(Verb.LIST)
        before = datetime.now(UTC).timestamp() * 1e6
        grant_revoked(holder)  # nobody gets to hear of it
        refusals = []
        for verb in VERBS:
            with edge.relay.noting() as asked:
                refusals.append(await holder.refused(verb, resource="users"))
            refusals[-1].assert_is(RATE_LIMITED_AT_ONCE)
            assert asked.reads == []
        if of_all:
            (await other.refused(Verb.LIST)).assert_is(RATE_LIMITED_AT_ONCE)
        else:
            assert await other.ask(Verb.LIST)
        expected = len(refusals) + of_all
        found = await counted(lambda: limited_since(edge, before), expected)
        assert len(found) <= 2
        assert sum(row["repeated"] for row in found) == expected
        for row in found:
            assert (row["outcome"], row["denied_layer"], row["denied_reason"], row["status_code"]) == (
                "denied",
                "source",
                "RATE_LIMITED",
                8,
            )
            assert (row["verb"], row["resource"], row["result_count"], row["bytes_out"]) == (None, "", 0, 0)
            assert (row["actor"], row["grant_id"]) == (("", None) if of_all else (holder.actor, holder.grant_id))
            assert (row["peer_id"], row["source_address"]) == (None, "127.0.0.1")


def limited_since(edge: Edge, time_us: float) -> list[dict[str, Any]]:
    return [row for row in edge.gateway.audit("read") if row["time_us"] >= time_us and row["denied_reason"] == "RATE_LIMITED"]


async def counted(find: Callable[[], list[dict[str, Any]]], expected: int) -> list[dict[str, Any]]:
    """Wait until the rows stand for so many calls: what is only counted is written once a second."""
    async with asyncio.timeout(5):
        while True:
            found = find()
            if sum(row["repeated"] for row in found) >= expected:
                return found
            await asyncio.sleep(0.05)


# ── messages that are none ────────────────────────────────────────────────────────────────────────────────────────────────────────

MALFORMED: Final = Denial(INVALID_ARGUMENT, 400, "MESSAGE_MALFORMED", Layer.REQUEST)
LATE: Final = Denial(grpc.StatusCode.DEADLINE_EXCEEDED, 408, "MESSAGE_LATE", Layer.REQUEST)


async def only(message: bytes) -> AsyncIterator[bytes]:
    yield message


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(lambda: only(b"\xff"), id="undecodable"),
        pytest.param(lambda: only(b"\x0a\x02\xc3\x28"), id="text that is not UTF-8"),
        pytest.param(lambda: only(b"\x0a\xff\xff\xff\xff\x0f"), id="shorter than it says"),
        pytest.param(nothing, id="none at all"),
    ],
)
async def test_a_message_that_is_none(edge: Edge, messages: Callable[[], AsyncIterator[bytes]]) -> None:
    """Of every verb: refused before it costs the certificate anything, counted, and the connection goes on."""
    async with edge.holder() as holder:
        asked_of = [verb for verb in VERBS if verb is not Verb.CAPABILITIES or messages is nothing]
        for verb in asked_of:
            answer = await refused(holder.raw(verb)(messages()))
            answer.assert_is(MALFORMED)
        found = await counted(lambda: edge.records_of(holder), len(asked_of))
        assert {(row["outcome"], row["denied_layer"], row["denied_reason"], row["status_code"]) for row in found} == {
            ("denied", "request", "MESSAGE_MALFORMED", 3)
        }
        assert await holder.ask(Verb.LIST)


async def test_a_message_that_never_comes(edge: Edge) -> None:
    """Two seconds, then the call is over; it asked for nothing and leaves no row."""
    async with edge.holder() as holder:
        answers = await asyncio.gather(*(refused(holder.raw(verb)(never())) for verb in VERBS))
        for answer in answers:
            answer.assert_is(LATE)
            assert edge.recorded(answer.request_id) == []
        assert await holder.ask(Verb.LIST)


@pytest.mark.parametrize("verb", VERBS)
async def test_a_message_that_is_too_large(edge: Edge, verb: Verb) -> None:
    """The library refuses it before any code of ours has it: without a reason; it is counted, and the connection goes on."""
    async with edge.holder() as holder:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await holder.raw(verb)(only(bytes(65_537)))
        assert (error.value.code(), error.value.trailing_metadata()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata())
        assert await holder.ask(verb)
        found = await counted(lambda: edge.records_of(holder), 2)
        assert [row["denied_reason"] for row in found if row["outcome"] == "denied"] == ["MESSAGE_MALFORMED"]


# ── a dependency that is down, a database that is late, a defect of ours ──────────────────────────────────────────────────────────

UNAVAILABLE: Final = Denial(
    grpc.StatusCode.UNAVAILABLE,
    503,
    "DEPENDENCY_UNAVAILABLE",
    Layer.DEPENDENCY,
    told={"remediation": "Tell the operator of that gateway this request id."},
    outcome=Outcome.ERROR,
)
INTERNAL: Final = Denial(grpc.StatusCode.INTERNAL, 500, "INTERNAL", None, outcome=Outcome.ERROR)
TOO_LONG: Final = Denial(grpc.StatusCode.DEADLINE_EXCEEDED, 504, "DEADLINE_EXCEEDED", Layer.REQUEST, outcome=Outcome.ERROR)
TRY_AGAIN: Final = "The gateway cannot answer right now; try again later."


@pytest.mark.parametrize("verb", VERBS)
async def test_a_read_that_the_database_fails(edge: Edge, verb: Verb) -> None:
    """Whatever is the matter with it, it is a dependency that is down, which the peer is not told; the record can be written."""
    async with edge.holder() as holder:
        await holder.ask(Verb.CAPABILITIES)
        with failing(edge, function_of(verb), "58030"):  # io_error
            answer = await holder.refused(verb)
        answer.assert_is(UNAVAILABLE)
        assert answer.message == TRY_AGAIN
        holder.assert_recorded(answer, verb, UNAVAILABLE, hashed=verb is not Verb.CAPABILITIES)
        assert await holder.ask(verb)


@pytest.mark.parametrize("verb", VERBS)
async def test_a_defect_of_ours(edge: Edge, verb: Verb) -> None:
    """An exception that nobody expected: one fixed text and the request id, under which the log has the rest; on record too."""
    async with edge.holder() as holder:
        await holder.ask(Verb.CAPABILITIES)
        with failing(edge, function_of(verb), CALL_OUT_OF_BOUNDS):  # which says that this edge's own code is wrong
            answer = await holder.refused(verb)
        answer.assert_is(INTERNAL)
        assert answer.message == internal_error().message
        holder.assert_recorded(answer, verb, INTERNAL, hashed=verb is not Verb.CAPABILITIES)
        assert await holder.ask(verb)


@contextmanager
def failing(edge: Edge, function: str, sqlstate: str) -> Iterator[None]:
    """A read function that raises, with a text that nobody may be told."""
    owner = edge.rows.owner
    [(definition,)] = owner.execute(
        "SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'federation'::regnamespace AND p.proname = %s",
        (function,),
    ).fetchall()
    raising = f"\nBEGIN\n    RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = 'on mosaic-postgres-1';\n"
    owner.execute(definition.replace("\nBEGIN\n", raising, 1).encode())
    try:
        yield
    finally:
        owner.execute(definition.encode())


async def test_a_search_that_takes_too_long(edge: Edge, work: Gateway) -> None:
    """A second, then it is refused and on record, while another's list of what nobody holds is answered."""
    async with edge.holder() as holder, edge.holder() as other:
        for each in (holder, other):
            await each.ask(Verb.CAPABILITIES)
        with work.database.connect() as owner, owner.transaction():
            owner.execute("LOCK TABLE public.notes IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            searching = asyncio.create_task(holder.refused(Verb.SEARCH, "notes"))
            listed = await other.ask(Verb.LIST)
            assert (len(listed.resources), searching.done()) == (1, False)
            answer = await searching
            assert 1 <= time.monotonic() - began < 5
        answer.assert_is(TOO_LONG)
        holder.assert_recorded(answer, Verb.SEARCH, TOO_LONG, resource="notes", hashed=True)
        assert await holder.ask(Verb.SEARCH, "notes")


async def test_while_postgres_is_away_nothing_is_answered(work: Gateway, rows: Rows) -> None:
    """Every verb: one answer, which does not say what is down. Nothing can be written meanwhile; once it can, each is on record."""
    async with Edge.serve(work, rows) as edge, edge.holder() as holder:
        await holder.ask(Verb.CAPABILITIES)
        async with edge.relay.away():
            answers = {verb: await holder.refused(verb) for verb in VERBS}
            for answer in answers.values():
                answer.assert_is(UNAVAILABLE)
                assert (answer.message, edge.recorded(answer.request_id)) == (TRY_AGAIN, [])
            assert len({answer.comparable for answer in answers.values()}) == 1
        for verb, answer in answers.items():
            await counted(partial(edge.recorded, answer.request_id), 1)
            holder.assert_recorded(answer, verb, UNAVAILABLE, hashed=verb is not Verb.CAPABILITIES)
            assert await holder.ask(verb)


async def test_while_grants_is_away_nobody_unknown_is_answered(work: Gateway, edge: Edge, rows: Rows) -> None:
    """Every verb of a grant that the edge has not heard of: the same answer again, before the database is asked, and on record."""
    async with Edge.serve(work, rows) as alone, alone.holder() as known, alone.holder() as holder, edge.holder() as elsewhere:
        await known.ask(Verb.CAPABILITIES)  # now the edge has a chain to write to
        await work.stop(GRANTS)
        try:
            heard = set[bytes]()
            for verb in VERBS:
                with alone.relay.noting() as asked:
                    answer = await holder.refused(verb)
                assert asked.reads == []
                answer.assert_is(UNAVAILABLE)
                assert answer.message == TRY_AGAIN
                holder.assert_recorded(answer, verb, UNAVAILABLE, of_peer=False)
                heard.add(answer.comparable)
            assert len(heard) == 1
        finally:
            await work.start(GRANTS)
        for each in (holder, elsewhere):
            await answered_again(each)


async def answered_again(holder: Holder) -> None:
    """Wait until the edge has found what was away."""
    async with asyncio.timeout(10):
        while True:
            try:
                await holder.ask(Verb.CAPABILITIES)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            else:
                return


# ── several things wrong at once ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that can be wrong with a call, and what it is refused with when nothing before it is wrong.

    Attributes:
        fields: of the request.
        lies: of the certificate.
        swapped: the certificate names another user.
    """

    denial: Denial
    change: Change | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    lies: tuple[Lie, ...] = ()
    swapped: bool = False


WRONG: Final = {
    "certificate": Wrong(NOT_ACCEPTED, lies=(lies.without_eku,)),
    "grant pending": Wrong(
        GRANT_NOT_ACTIVE, sql(f"{_GRANT} status = 'pending', revoked_at = NULL, expires_at = NULL WHERE id = %(grant)s")
    ),
    "never pinned": Wrong(NOT_PINNED, unpinned),
    "grant revoked": Wrong(GRANT_REVOKED, grant_revoked),
    "grant past its end": Wrong(GRANT_EXPIRED, grant_over),
    "peer suspended": Wrong(PEER_NOT_ACTIVE, peer_suspended),
    "certificate revoked": Wrong(CERTIFICATE_REVOKED, certificate_revoked),
    "another subject": Wrong(SUBJECT_MISMATCH, swapped=True),
    "subject disabled": Wrong(
        SUBJECT_INACTIVE,
        sql(
            "UPDATE public.users SET active = false"
            " WHERE id = (SELECT subject_user_id FROM federation.federation_grants WHERE id = %(grant)s)"
        ),
    ),
    "no such resource": Wrong(UNKNOWN_SEARCHED, fields={"resources": ["credentials", "users"]}),
    "not in scope": Wrong(NOT_GRANTED, fields={"resources": ["credentials", "tasks"]}),
    "page size": Wrong(PAGE_SIZE, fields={"page_size": -1}),
    "too often": Wrong(RATE_LIMITED, sql(f"{_GRANT} rate_per_second = 1, rate_burst = 1 WHERE id = %(grant)s")),
    "no query": Wrong(NO_QUERY, fields={"query": "\0"}),
}


@pytest.mark.parametrize("first", WRONG)
async def test_of_several_things_the_first_is_said(edge: Edge, first: str) -> None:
    """In the order of architecture.md: each case has everything wrong from one thing on, so that together they fix all of it."""
    names = list(WRONG)
    wrong = [WRONG[name] for name in names[names.index(first) :]]
    swapped = edge.rows.user() if any(each.swapped for each in wrong) else None
    async with edge.holder(*(lie for each in wrong for lie in each.lies), names=swapped) as holder:
        fields: dict[str, Any] = {}
        for each in reversed(wrong):  # of two states of one thing the earlier stays
            if each.change is not None:
                each.change(holder)
            fields |= each.fields
        answer = await holder.refused(Verb.SEARCH, **fields)
    answer.assert_is(wrong[0].denial)


LATER_WRONG: Final = [
    *(name for name in WRONG if name in {"grant pending", "never pinned", "grant revoked", "grant past its end", "peer suspended"}),
    "certificate revoked",
    "subject disabled",
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("first", LATER_WRONG)
async def test_the_database_says_the_first_too(edge: Edge, first: str, verb: Verb) -> None:
    """The same order, under an edge that believes the grant to be live, the scope narrowed besides."""
    wrong = [WRONG[name] for name in LATER_WRONG[LATER_WRONG.index(first) :]]
    async with edge.holder() as holder:
        await holder.ask(Verb.CAPABILITIES)
        scope('{"resources": ["notes"], "max_rows_per_query": 5}')(holder)
        in_turn([each.change for each in reversed(wrong) if each.change is not None])(holder)
        with edge.relay.noting() as asked:
            answer = await holder.refused(verb)
    assert asked.functions == [function_of(verb)]
    answer.assert_is(wrong[0].denial)

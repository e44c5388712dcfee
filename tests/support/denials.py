"""Whoever holds a certificate, what becomes of what it asks, and what is on record of that.

The grants are written by SQL and the certificates signed with the authority's own key: each case costs a connection, and the ledger
can be changed under an edge that does not know it yet.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Self
from uuid import UUID, uuid4

import grpc
import mosaic_federation_edge.app
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from mosaic.federation.v1 import federation_pb2 as pb
from mosaic.federation.v1 import federation_pb2_grpc
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common.audit import AuditRow, Outcome
from mosaic_common.clock import Clock
from mosaic_common.config import load
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer
from mosaic_common.identity import EDGE_INBOUND, GRANTS, OPERATOR
from mosaic_federation_edge.config import InboundConfig
from mosaic_federation_edge.domain.limits import DEFAULT_LIMITS, Limits

from tests.support.answers import comparable
from tests.support.authorities import Lie, with_not_before
from tests.support.forgeries import forge
from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.rows import Rows
from tests.support.statements import StatementRelay

DOMAIN: Final = "federation.mosaicstack.dev"
WORD: Final = "lighthouse"
"""What every own row says, for a search to find."""
SCOPE: Final[Mapping[str, Any]] = {"resources": ["tasks", "notes", "memory"], "max_rows_per_query": 500}

_METHODS: Final = {
    Verb.LIST: "ListResources",
    Verb.GET: "GetResource",
    Verb.SEARCH: "SearchResources",
    Verb.CAPABILITIES: "GetCapabilities",
}


def path_of(verb: Verb) -> str:
    return f"/mosaic.federation.v1.FederationService/{_METHODS[verb]}"


@dataclass(frozen=True, slots=True)
class Denial:
    """One row of the denial table of contracts.md.

    Attributes:
        told: metadata beyond http_status and request_id.
        violations: fields of BadRequest.
        recorded: what the audit row says where the answer says less.
        retried: RetryInfo is there.
        outcome: as it is on record.
    """

    code: grpc.StatusCode
    http_status: int
    reason: str
    layer: Layer | None
    told: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[str, ...] = ()
    recorded: str = ""
    retried: bool = False
    outcome: Outcome = Outcome.DENIED


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused call with every detail that came with it.

    Attributes:
        details: type names, in order.
        comparable: all that the client saw, but for the request id.
    """

    code: grpc.StatusCode
    message: str
    details: tuple[str, ...]
    domain: str
    reason: str
    metadata: Mapping[str, str]
    violations: tuple[str, ...]
    retry_after: timedelta | None
    comparable: bytes

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Self:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        details = []
        for key, value in error.trailing_metadata() or ():
            assert key == "grpc-status-details-bin", "nothing else is told"
            status = status_pb2.Status.FromString(value)
            assert (status.code, status.message) == (error.code().value[0], error.details())
            for detail in status.details:
                details.append(detail.TypeName().rpartition(".")[2])
                for message in (info, bad, retry):
                    detail.Unpack(message)
        return cls(
            error.code(),
            error.details() or "",
            tuple(details),
            info.domain,
            info.reason,
            dict(info.metadata),
            tuple(each.field for each in bad.field_violations),
            retry.retry_delay.ToTimedelta() if "RetryInfo" in details else None,
            comparable(error),
        )

    @property
    def request_id(self) -> str:
        return self.metadata["request_id"]

    def assert_is(self, denial: Denial) -> None:
        """Code, reason, HTTP class and details are exactly the row's."""
        assert (self.code, self.reason, self.domain) == (denial.code, denial.reason, DOMAIN)
        assert {**self.metadata, "request_id": ""} == {"http_status": str(denial.http_status), "request_id": "", **denial.told}
        assert self.violations == denial.violations
        expected = ["ErrorInfo", *(["BadRequest"] if denial.violations else []), *(["RetryInfo"] if denial.retried else [])]
        assert list(self.details) == expected
        assert not denial.retried or (self.retry_after is not None and self.retry_after > timedelta(0))


async def refused(call: Any) -> Refused:
    """Await a call that has to be refused."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return Refused.of(error)
    raise AssertionError(f"not refused: {answer}")


@dataclass(frozen=True, slots=True)
class Edge:
    """An inbound edge in front of a database that is listened to.

    Attributes:
        gateway: as its callers see it; the addresses are this edge's.
    """

    gateway: Gateway
    relay: StatementRelay
    rows: Rows

    @classmethod
    @asynccontextmanager
    async def serve(
        cls, work: Gateway, rows: Rows, *, clock: Clock | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> AsyncIterator[Self]:
        """One more edge of a gateway whose grants service runs."""
        own = [(EDGE_INBOUND, "internal"), (EDGE_INBOUND, "public")]
        ports = dict(zip(own, (f"127.0.0.1:{port}" for port in choose_free_ports(2)), strict=True))
        gateway = replace(work, addresses=work.addresses | ports, apps={}, _channels=[], clock=clock or work.clock)
        async with StatementRelay(work.database.url("mosaic_edge_inbound")) as relay:
            environment = gateway.environment(EDGE_INBOUND) | {"DATABASE_URL": relay.url}
            config = load(InboundConfig, environment)
            edge = gateway.apps[EDGE_INBOUND] = mosaic_federation_edge.app.build_inbound(config, gateway.clock, limits=limits)
            try:
                await edge.start()
                await serving(gateway.internal_channel(EDGE_INBOUND, caller=OPERATOR), GRANTS, "postgres")
                yield cls(gateway, relay, rows)
            finally:
                await gateway.close()

    @asynccontextmanager
    async def holder(self, *lies: Lie, scope: Mapping[str, Any] = SCOPE, names: UUID | None = None) -> AsyncIterator["Holder"]:
        """A new user with one task, note and memory, a live grant, and a connection with the certificate that is pinned for it.

        Args:
            lies: of the certificate.
            names: whom the certificate names in place of the grant's subject.
        """
        subject = self.rows.user()
        texts: Mapping[str, Mapping[str, Any]] = {
            "tasks": {"title": WORD},
            "notes": {"title": WORD},
            "memory": {"content": WORD},
        }
        own = {resource: self.rows.resource(resource, subject, **columns) for resource, columns in texts.items()}
        granted = self.rows.grant(subject, scope)
        # A handshake's own clock lags by some milliseconds: "from now on" is sometimes "not valid yet" there.
        valid_from = with_not_before(self.gateway.clock.now() - timedelta(seconds=1))
        key, chain = forge(self.gateway, granted.id, names or subject, valid_from, *lies)
        fingerprint = x509.load_pem_x509_certificate(chain).fingerprint(hashes.SHA256())
        self.rows.owner.execute(
            "UPDATE federation.federation_certificates SET fingerprint_sha256 = %s WHERE grant_id = %s", (fingerprint, granted.id)
        )
        async with self.connected(key, chain) as channel:
            yield Holder(self, key, chain, granted.id, granted.peer_id, names or subject, fingerprint, own, channel)

    @asynccontextmanager
    async def connected(self, key: bytes, chain: bytes) -> AsyncIterator[grpc.aio.Channel]:
        channel = self.gateway.channel(EDGE_INBOUND, "public", key=key, chain=chain)
        try:
            yield channel
        finally:
            await channel.close()

    def recorded(self, request_id: str) -> list[dict[str, Any]]:
        """The audit rows under a request id."""
        return self._records("request_id = %s", UUID(request_id))

    def records_of(self, holder: "Holder") -> list[dict[str, Any]]:
        """What is on record of a certificate, oldest first."""
        return self._records("actor = %s", holder.actor)

    def _records(self, condition: str, value: object) -> list[dict[str, Any]]:
        statement = f"SELECT * FROM federation.federation_audit_log WHERE {condition} ORDER BY time_us, seq"
        cursor = self.rows.owner.execute(statement.encode(), (value,))
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody with a certificate, connected.

    Attributes:
        subject: whom the certificate names.
        own: resource → id of the user's one row.
    """

    edge: Edge
    key: bytes
    chain: bytes
    grant_id: UUID
    peer_id: UUID
    subject: UUID
    fingerprint: bytes
    own: Mapping[str, UUID]
    channel: grpc.aio.Channel

    @property
    def actor(self) -> str:
        """As the record names whoever called."""
        return self.fingerprint.hex()[:16]

    @property
    def stub(self) -> Any:
        return federation_pb2_grpc.FederationServiceStub(self.channel)

    def request(self, verb: Verb, resource: str = "tasks", **fields: Any) -> Message:
        """What is answered while the grant is live, but for what ``fields`` change."""
        if verb is Verb.LIST:
            return pb.ListResourcesRequest(**{"resource": resource} | fields)
        if verb is Verb.GET:
            return pb.GetResourceRequest(**{"resource": resource, "id": str(self.own.get(resource, uuid4()))} | fields)
        if verb is Verb.SEARCH:
            return pb.SearchResourcesRequest(**{"resources": [resource], "query": WORD} | fields)
        return pb.GetCapabilitiesRequest(**fields)

    def ask(self, verb: Verb, resource: str = "tasks", **fields: Any) -> Any:
        return getattr(self.stub, _METHODS[verb])(self.request(verb, resource, **fields))

    async def refused(self, verb: Verb, resource: str = "tasks", **fields: Any) -> Refused:
        return await refused(self.ask(verb, resource, **fields))

    def raw(self, verb: Verb) -> Any:
        """The same method, for bytes that are no message."""
        return self.channel.stream_unary(path_of(verb))

    def assert_recorded(
        self,
        answer: Refused,
        verb: Verb | None,
        denial: Denial,
        *,
        resource: str = "tasks",
        of_peer: bool = True,
        hashed: bool = False,
        identified: bool = True,
    ) -> None:
        """One row, which says who asked what, that nothing was given, and why.

        Args:
            of_peer: the certificate speaks for the grant's peer, as far as the edge knew.
            hashed: the query was understood before it was refused.
            identified: the certificate says exactly who.
        """
        [row] = self.edge.recorded(answer.request_id)
        said = {name: row[name] for name in AuditRow.__slots__ if name not in {"request_id", "time_us", "latency_us", "query_hash"}}
        assert said == {
            "event": "read",
            "actor": self.actor if identified else "",
            "source_address": "127.0.0.1",
            "peer_id": self.peer_id if of_peer else None,
            "grant_id": self.grant_id if identified else None,
            "subject_user_id": self.subject if identified else None,
            "token_id": None,
            "verb": verb,
            "resource": "" if verb in {None, Verb.CAPABILITIES} else resource,
            "outcome": denial.outcome,
            "denied_layer": denial.layer,
            "denied_reason": denial.recorded or denial.reason,
            "status_code": denial.code.value[0],
            "result_count": 0,
            "bytes_out": 0,
            "repeated": 1,
        }
        assert (row["query_hash"] is not None) == hashed
        assert 0 < row["latency_us"] < 10_000_000


Change = Callable[[Holder], None]
"""What happens to the ledger under somebody who holds a certificate."""


def sql(*statements: str) -> Change:
    """%(grant)s, %(peer)s and %(subject)s are the holder's."""

    def change(holder: Holder) -> None:
        values = {"grant": holder.grant_id, "peer": holder.peer_id, "subject": holder.subject}
        for statement in statements:
            holder.edge.rows.owner.execute(statement.encode(), values)

    return change


def in_turn(changes: Sequence[Change]) -> Change:
    def change(holder: Holder) -> None:
        for each in changes:
            each(holder)

    return change

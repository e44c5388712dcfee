"""Who may call what, tried with everybody who could.

Generated from the method tables of all services: a new method is tried from the day that it has its row.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import grpc
import mosaic_ca_broker.app
import mosaic_enrollment.app
import mosaic_federation_edge.app
import mosaic_grants.app
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common import pki
from mosaic_common.clock import SystemClock
from mosaic_common.errors import ConfigurationError
from mosaic_common.identity import (
    CA_BROKER,
    EDGE_INBOUND,
    EDGE_OUTBOUND,
    ENROLLMENT,
    GRANTS,
    IDENTITIES,
    OPERATOR,
    SERVICES,
    service_uri,
)
from mosaic_common.keys import private_pem
from mosaic_common.rpc.call import Behaviour, Wrapper
from mosaic_common.rpc.client import ClientTls, service_channel
from mosaic_common.rpc.methods import Listener, Method, MethodTable, method_table

from tests.support.authorities import LyingAuthority, new_key, with_service_uri
from tests.support.forgeries import forge
from tests.support.gateway import Gateway
from tests.support.health import first_report
from tests.support.orders import SigningOrder
from tests.support.peers import Refusal


@dataclass(frozen=True, slots=True)
class Composed:
    """A service: its composition root, and under which name the table stands there."""

    app: Any
    name: str

    @property
    def table(self) -> MethodTable:
        table: MethodTable = getattr(self.app, self.name)
        return table


COMPOSED: Final[Mapping[str, Composed]] = {
    CA_BROKER: Composed(mosaic_ca_broker.app, "METHODS"),
    GRANTS: Composed(mosaic_grants.app, "METHODS"),
    ENROLLMENT: Composed(mosaic_enrollment.app, "METHODS"),
    EDGE_INBOUND: Composed(mosaic_federation_edge.app, "INBOUND"),
    EDGE_OUTBOUND: Composed(mosaic_federation_edge.app, "OUTBOUND"),
}
METHODS: Final = [(service, method) for service, composed in COMPOSED.items() for method in composed.table]
INTERNAL: Final = [(service, method) for service, method in METHODS if method.listener is Listener.INTERNAL]
LISTENERS: Final = sorted(
    {(service, method.listener) for service, method in METHODS} | {(each, Listener.INTERNAL) for each in SERVICES}
)


class Reached(set[str]):
    """The x-request-id of every call whose handler was entered."""


@pytest.fixture(scope="module")
def reached() -> Iterator[Reached]:
    """Watch the last step of the wrapper, on every listener of every service that starts from now on."""
    entered, handler = Reached(), Wrapper.handler

    def watched(wrapper: Wrapper, method: Method, behaviour: Behaviour) -> Any:
        async def enter(request: Any, call: Any) -> Any:
            entered.add(call.client_request_id)
            return await behaviour(request, call)

        return handler(wrapper, method, enter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Wrapper, "handler", watched)
        yield entered


@pytest.fixture(scope="module")
async def watched(reached: Reached, work: Gateway) -> Gateway:
    """The gateway, started after the watch was set up."""
    return work


@dataclass(frozen=True, slots=True)
class Tried:
    """How a call ended; `refusal` is None when it was answered."""

    request_id: str
    refusal: Refusal | None


async def attempt(channel: grpc.aio.Channel, method: Method, *metadata: tuple[str, str]) -> Tried:
    """Call a method with an empty message."""
    request_id = str(uuid4())
    try:
        call: Any = channel.unary_unary(method.path)
        await call(b"", metadata=(("x-request-id", request_id), *metadata), timeout=10)
    except grpc.RpcError as error:
        return Tried(request_id, Refusal.of(error))
    return Tried(request_id, None)


async def health_of(channel: grpc.aio.Channel, service: str = "") -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
    """Return what the listener says; raises RpcError when it says nothing."""
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    status: health_pb2.HealthCheckResponse.ServingStatus.ValueType = answer.status
    return status


class TestEveryPair:
    """Every internal method × every identity of the service PKI."""

    @pytest.mark.parametrize("identity", IDENTITIES)
    @pytest.mark.parametrize(("service", "method"), [pytest.param(*each, id=f"{each[0]}:{each[1].name}") for each in INTERNAL])
    async def test_only_the_listed_reach_the_handler(
        self, watched: Gateway, reached: Reached, service: str, method: Method, identity: str
    ) -> None:
        """Whoever is not on a method's list hears CALLER_NOT_ALLOWED before the handler runs, and leaves a row that names them."""
        tried = await attempt(watched.internal_channel(service, caller=identity), method)

        if identity in method.callers:
            assert tried.request_id in reached
            assert tried.refusal is None or tried.refusal.reason != "CALLER_NOT_ALLOWED"
            return
        assert tried.request_id not in reached
        assert tried.refusal is not None
        assert (tried.refusal.code, tried.refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
        if method.audit is not None:
            assert watched.rows(
                "SELECT event, actor, outcome, denied_layer, denied_reason, status_code, result_count"
                " FROM federation.federation_audit_log WHERE request_id = %s",
                tried.refusal.metadata["request_id"],
            ) == [(str(method.audit), identity, "denied", "caller", "CALLER_NOT_ALLOWED", 7, 0)]

    def test_tries_every_caller_that_any_table_names(self) -> None:
        """No row lists an identity that the PKI does not know: a misspelt caller would be nobody, and go unnoticed."""
        assert {caller for _, method in INTERNAL for caller in method.callers} <= set(IDENTITIES)

    @pytest.mark.parametrize("identity", IDENTITIES)
    @pytest.mark.parametrize("service", SERVICES)
    async def test_health_and_reflection_are_open_to_all_of_them(self, watched: Gateway, service: str, identity: str) -> None:
        """Every internal listener says how it is, and what it serves, to every identity, the client-only operator's too."""
        channel = watched.internal_channel(service, caller=identity)
        assert await health_of(channel) == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=10):
            served = {each.name for each in answer.list_services_response.service}
            assert {method.service.full_name for owner, method in INTERNAL if owner == service} <= served


@pytest.mark.parametrize(("service", "listener"), [pytest.param(*each, id=f"{each[0]}:{each[1]}") for each in LISTENERS])
async def test_a_listener_knows_no_method_of_another(watched: Gateway, reached: Reached, service: str, listener: Listener) -> None:
    """What is not registered on a listener does not exist there, not even for whoever may call it where it lives."""
    for owner, method in METHODS:
        if (owner, method.listener) == (service, listener):
            continue
        tried = await attempt(best_channel(watched, service, listener, method), method, *watched.operator_metadata())
        assert tried.refusal is not None
        assert (tried.refusal.code, tried.refusal.reason) == (grpc.StatusCode.UNIMPLEMENTED, "")
        assert tried.request_id not in reached


def best_channel(work: Gateway, service: str, listener: Listener, method: Method) -> grpc.aio.Channel:
    """A connection that the listener accepts, as the caller that the method likes best."""
    if listener is Listener.INTERNAL:
        return work.internal_channel(service, caller=min(method.callers & set(IDENTITIES), default=OPERATOR))
    if listener is Listener.PEER:
        key, chain = forge(work, uuid4(), uuid4())
        return work.channel(service, "public", key=key, chain=chain)
    return work.channel(service, listener.value)


# ── strangers: certificates that are none of this listener's ──────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Service PKIs of other hands by the gateway that they are made out to: another one, and ours."""
    made = {name: tmp_path_factory.mktemp("foreign") for name in ("home", "work")}
    for name, folder in made.items():
        pki.init(folder, name, "localhost", clock=SystemClock())
    return made


@dataclass(frozen=True, slots=True)
class Shown:
    """What a client shows, PEM; nothing, when both are None."""

    key: bytes | None
    chain: bytes | None

    @classmethod
    def of(cls, folder: Path, leaf: str = "internal") -> "Shown":
        return cls((folder / f"{leaf}.key").read_bytes(), (folder / f"{leaf}.pem").read_bytes())


def federation_certificate(work: Gateway, _foreign: Mapping[str, Path]) -> Shown:
    return Shown(*forge(work, uuid4(), uuid4()))


def federation_certificate_with_a_service_uri(work: Gateway, _foreign: Mapping[str, Path]) -> Shown:
    return Shown(*forge(work, uuid4(), uuid4(), with_service_uri(service_uri(ENROLLMENT, work.name))))


def service_of_another_gateway(_work: Gateway, foreign: Mapping[str, Path]) -> Shown:
    return Shown.of(foreign["home"] / ENROLLMENT)


def service_under_a_root_made_out_to_us(work: Gateway, foreign: Mapping[str, Path]) -> Shown:
    return Shown.of(foreign[work.name] / ENROLLMENT)


def self_made(work: Gateway, _foreign: Mapping[str, Path]) -> Shown:
    key = new_key()
    stranger = LyingAuthority.make(work.clock.now())
    lie = with_service_uri(service_uri(ENROLLMENT, work.name))
    return Shown(private_pem(key), stranger.sign_pem(key.public_key(), SigningOrder.make().warrant, lie))


def nothing(_work: Gateway, _foreign: Mapping[str, Path]) -> Shown:
    return Shown(None, None)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "show",
    [
        pytest.param(federation_certificate, id="a peer's certificate"),
        pytest.param(federation_certificate_with_a_service_uri, id="a peer's certificate that bears a service's URI"),
        pytest.param(service_of_another_gateway, id="another gateway's service"),
        pytest.param(service_under_a_root_made_out_to_us, id="a service under another root that is made out to us"),
        pytest.param(self_made, id="self-made"),
        pytest.param(nothing, id="no certificate"),
    ],
)
async def test_internal_listeners_are_for_the_service_pki(
    watched: Gateway, reached: Reached, foreign: Mapping[str, Path], service: str, show: Any
) -> None:
    """What does not lead to this gateway's service root ends in the handshake: no handler is reached, not even the library's."""
    shown = show(watched, foreign)
    channel = watched.channel(service, "internal", key=shown.key, chain=shown.chain)
    await expect_no_connection(channel, reached, [method for owner, method in INTERNAL if owner == service])


@pytest.mark.parametrize("identity", [each for each in IDENTITIES if each not in {OPERATOR, CA_BROKER}])
async def test_a_public_leaf_is_nobody(watched: Gateway, reached: Reached, identity: str) -> None:
    """The key behind a public door opens no internal one: its leaf says serverAuth alone."""
    shown = Shown.of(watched.pki / identity, "public")
    for service, method in INTERNAL:
        tried = await attempt(watched.channel(service, "internal", key=shown.key, chain=shown.chain), method)
        assert tried.refusal is not None
        assert tried.refusal.code is grpc.StatusCode.UNAVAILABLE
        assert tried.request_id not in reached


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_the_peers_listener_is_for_the_federation_pki(watched: Gateway, reached: Reached, identity: str) -> None:
    """A service's certificate opens no peer's door: the two PKIs never meet."""
    shown = Shown.of(watched.pki / identity)
    channel = watched.channel(EDGE_INBOUND, "public", key=shown.key, chain=shown.chain)
    await expect_no_connection(channel, reached, list(COMPOSED[EDGE_INBOUND].table.on(Listener.PEER)))


async def expect_no_connection(channel: grpc.aio.Channel, reached: Reached, methods: list[Method]) -> None:
    for method in methods:
        tried = await attempt(channel, method)
        assert tried.refusal is not None
        assert (tried.refusal.code, tried.refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "")
        assert tried.request_id not in reached
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await health_of(channel)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


# ── whom a client believes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("presented", SERVICES)
@pytest.mark.parametrize("expected", SERVICES)
async def test_a_client_talks_to_the_service_it_means_or_to_nobody(watched: Gateway, expected: str, presented: str) -> None:
    """A service that stands where another should be is found out by its leaf, before anything is sent to it."""
    tls = ClientTls.of_service(watched.pki / GRANTS)
    address = watched.addresses[presented, "internal"]
    async with service_channel(address, identity=expected, gateway=watched.name, tls=tls) as channel:
        if expected == presented:
            assert await health_of(channel) == health_pb2.HealthCheckResponse.SERVING
            return
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health_of(channel)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.fixture(params=["home", "work"])
async def impostor(request: pytest.FixtureRequest, foreign: Mapping[str, Path]) -> AsyncIterator[str]:
    """A listener that presents a grants leaf which our root never signed; its address."""
    shown = Shown.of(foreign[request.param] / GRANTS)
    assert shown.key is not None
    assert shown.chain is not None
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(shown.key, shown.chain)]))
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_a_client_believes_its_own_root_only(watched: Gateway, impostor: str) -> None:
    """The right name under another root is nobody."""
    tls = ClientTls.of_service(watched.pki / ENROLLMENT)
    async with service_channel(impostor, identity=GRANTS, gateway=watched.name, tls=tls) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health_of(channel)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("service", "callee", "instead"),
    [
        pytest.param(service, callee, instead, id=f"{service}: {instead} where {callee} should be")
        for service, callee, instead in [
            (GRANTS, CA_BROKER, ENROLLMENT),
            (ENROLLMENT, CA_BROKER, GRANTS),
            (ENROLLMENT, GRANTS, CA_BROKER),
            (EDGE_INBOUND, GRANTS, CA_BROKER),
            (EDGE_OUTBOUND, GRANTS, EDGE_INBOUND),
        ]
    ],
)
async def test_every_service_checks_whom_it_reached(watched: Gateway, service: str, callee: str, instead: str) -> None:
    """A service led to another one reports its dependency as down, and is none the worse for it itself."""
    addresses = dict(watched.addresses) | {(callee, "internal"): watched.addresses[instead, "internal"]}
    own = [each for each in addresses if each[0] == service]
    addresses |= {each: f"127.0.0.1:{port}" for each, port in zip(own, choose_free_ports(len(own)), strict=True)}
    misled = replace(watched, addresses=addresses, apps={}, _channels=[])
    await misled.start(service)
    try:
        channel = misled.internal_channel(service, caller=OPERATOR)
        assert await first_report(channel, callee) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await health_of(channel) == health_pb2.HealthCheckResponse.SERVING
    finally:
        await misled.close()


# ── the tables themselves ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def without(table: MethodTable, row: Method) -> MethodTable:
    """Built past the check of `method_table`, as somebody would who edits the wrong place."""
    return MethodTable(tuple(each for each in table if each is not row))


def with_planted(table: MethodTable, row: Method) -> MethodTable:
    return MethodTable((*table, replace(row, name="Planted")))


def with_moved(table: MethodTable, row: Method) -> MethodTable:
    elsewhere = Listener.OPERATOR if row.listener is not Listener.OPERATOR else Listener.INTERNAL
    return MethodTable(tuple(replace(each, listener=elsewhere) if each is row else each for each in table))


@pytest.mark.parametrize("plant", [without, with_planted, with_moved])
@pytest.mark.parametrize(("service", "row"), [pytest.param(*each, id=f"{each[0]}:{each[1].name}") for each in METHODS])
async def test_a_table_that_is_not_complete_stops_the_start(
    work: Gateway, monkeypatch: pytest.MonkeyPatch, service: str, row: Method, plant: Any
) -> None:
    """A method without a row, a row without a method, or one on the wrong listener: the service does not start, and says which."""
    composed = COMPOSED[service]
    monkeypatch.setattr(composed.app, composed.name, plant(composed.table, row))
    second = replace(work, apps={}, _channels=[])
    with pytest.raises(ConfigurationError, match="Planted" if plant is with_planted else row.name):
        await second.start(service)
    assert not any(application.listeners for application in second.apps.values())


@pytest.mark.parametrize(("service", "row"), [pytest.param(*each, id=f"{each[0]}:{each[1].name}") for each in METHODS])
def test_a_table_covers_the_services_that_it_names(service: str, row: Method) -> None:
    """Each method of a protobuf service has exactly one row, and no row names another."""
    table = COMPOSED[service].table
    wrong: list[Iterable[Method]] = [[*table, row], with_planted(table, row)]
    if any(each.service is row.service for each in without(table, row)):
        wrong.append(without(table, row))
    for rows in wrong:
        with pytest.raises(ConfigurationError, match=r"each method needs exactly one row"):
            method_table(*rows)

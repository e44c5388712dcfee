"""mosaic_common.identity: who is at the other end of a connection."""

import ssl
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from mosaic_common.errors import AccessDenied, CertificateRefused, Layer, Reason
from mosaic_common.identity import (
    IDENTITIES,
    PeerCertificates,
    ServiceIdentity,
    dns_name,
    parse_peer_certificate,
    parse_service_identity,
    service_uri,
)
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID
from mosaic_common.x509 import Ordered, fingerprint_sha256

from tests.support import authorities
from tests.support.authorities import Lie, LyingAuthority, double, new_key, omit

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
GRANT = UUID("0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69")
SUBJECT = UUID("7d3a1f60-2b8c-4e95-a0d4-5c6b7a8e9f01")
AUTHORITY = LyingAuthority.make(NOW, intermediate=False)


def peer_pem(*lies: Lie) -> bytes:
    order = Ordered("home", GRANT, SUBJECT, uuid4().int, b"", NOW + timedelta(days=30), NOW)
    return AUTHORITY.sign_pem(new_key().public_key(), order, *lies)


def service_pem(*lies: Lie) -> bytes:
    return peer_pem(authorities.without_identifiers, *lies)


def as_service(name: str, gateway: str = "work") -> Lie:
    return authorities.with_service_uri(service_uri(name, gateway))


def test_reads_a_peer_certificate() -> None:
    """Both identifiers, validity, and the fingerprint that a pin compares."""
    pem = peer_pem()
    peer = parse_peer_certificate(pem)
    assert (peer.grant_id, peer.subject_user_id) == (GRANT, SUBJECT)
    assert peer.fingerprint == fingerprint_sha256(ssl.PEM_cert_to_DER_cert(pem.decode()))
    assert (peer.not_before, peer.not_after) == (NOW - timedelta(minutes=1), NOW + timedelta(days=30))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: b"", Reason.CERTIFICATE_NOT_ACCEPTED, id="nothing"),
        pytest.param(
            lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", Reason.CERTIFICATE_NOT_ACCEPTED, id="no DER"
        ),
        pytest.param(lambda: peer_pem() + bytes(10_000), Reason.CERTIFICATE_NOT_ACCEPTED, id="10 kB"),
        pytest.param(lambda: peer_pem(authorities.without_eku), Reason.CERTIFICATE_NOT_ACCEPTED, id="no extended key usage"),
        pytest.param(
            lambda: peer_pem(authorities.with_eku(ExtendedKeyUsageOID.SERVER_AUTH)),
            Reason.CERTIFICATE_NOT_ACCEPTED,
            id="serverAuth",
        ),
        pytest.param(
            lambda: peer_pem(authorities.with_eku(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)),
            Reason.CERTIFICATE_NOT_ACCEPTED,
            id="any extended key usage",
        ),
        pytest.param(lambda: peer_pem(authorities.as_authority), Reason.CERTIFICATE_NOT_ACCEPTED, id="CA:true"),
        pytest.param(lambda: peer_pem(authorities.as_version_1), Reason.CERTIFICATE_NOT_ACCEPTED, id="version 1"),
        pytest.param(lambda: peer_pem(double(authorities.EXTENDED_KEY_USAGE)), Reason.CERTIFICATE_NOT_ACCEPTED, id="two usages"),
        pytest.param(lambda: peer_pem(authorities.without_identifiers), Reason.CERTIFICATE_OID_MISSING, id="neither id"),
        pytest.param(lambda: peer_pem(omit(GRANT_ID_OID)), Reason.CERTIFICATE_OID_MISSING, id="no grant id"),
        pytest.param(lambda: peer_pem(omit(SUBJECT_USER_ID_OID)), Reason.CERTIFICATE_OID_MISSING, id="no subject user id"),
        pytest.param(lambda: peer_pem(double(GRANT_ID_OID)), Reason.CERTIFICATE_OID_MALFORMED, id="two grant ids"),
        pytest.param(
            lambda: peer_pem(authorities.as_printable_string(GRANT_ID_OID)), Reason.CERTIFICATE_OID_MALFORMED, id="PrintableString"
        ),
        pytest.param(lambda: peer_pem(authorities.in_upper_case(GRANT_ID_OID)), Reason.CERTIFICATE_OID_MALFORMED, id="upper case"),
    ],
)
def test_refuses_peer_certificates(make: object, reason: Reason) -> None:
    """What the handshake lets through and is no peer's certificate is refused here, with the layer for the audit row."""
    assert callable(make)
    with pytest.raises(CertificateRefused) as refused:
        parse_peer_certificate(make())
    assert refused.value.reason is reason
    assert refused.value.layer is Layer.CERTIFICATE


def test_checks_validity_at_every_call() -> None:
    """A connection outlives its certificate: the cached one is refused from the second it expires."""
    certificates, pem = PeerCertificates(), peer_pem()
    last_second = NOW + timedelta(days=30, seconds=-1)
    assert certificates.get(pem, NOW) is certificates.get(pem, last_second)
    for moment in (NOW - timedelta(minutes=2), NOW + timedelta(days=30)):
        with pytest.raises(CertificateRefused) as refused:
            certificates.get(pem, moment)
        assert refused.value.reason is Reason.CERTIFICATE_NOT_ACCEPTED


def test_forgets_the_least_recently_used() -> None:
    """The cache is bounded, keeps what is in use, and keeps nothing that was refused."""
    certificates = PeerCertificates(size=2)
    first, second, third = peer_pem(), peer_pem(), peer_pem()
    kept = certificates.get(first, NOW)
    dropped = certificates.get(second, NOW)
    certificates.get(first, NOW)
    certificates.get(third, NOW)
    with pytest.raises(CertificateRefused):
        certificates.get(peer_pem(authorities.without_eku), NOW)
    assert certificates.get(first, NOW) is kept
    assert certificates.get(second, NOW) is not dropped


@pytest.mark.parametrize("name", IDENTITIES)
def test_reads_every_service_identity(name: str) -> None:
    """Each identity of the service PKI is recognized by its URI."""
    assert parse_service_identity(service_pem(as_service(name)), gateway="work") == ServiceIdentity("work", name)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: b"", id="nothing"),
        pytest.param(service_pem, id="no SAN"),
        pytest.param(lambda: service_pem(authorities.with_san(x509.DNSName(dns_name("grants", "work")))), id="DNS name only"),
        pytest.param(lambda: service_pem(as_service("grants", "home")), id="another gateway's"),
        pytest.param(lambda: service_pem(as_service("postgres")), id="no identity of ours"),
        pytest.param(lambda: service_pem(authorities.with_service_uri("mosaic://work/svc/grants/")), id="trailing slash"),
        pytest.param(lambda: service_pem(authorities.with_service_uri("MOSAIC://work/svc/grants")), id="upper case"),
        pytest.param(
            lambda: service_pem(authorities.with_service_uri("mosaic://work@evil/svc/grants")), id="another authority part"
        ),
        pytest.param(
            lambda: service_pem(
                authorities.with_san(
                    *(x509.UniformResourceIdentifier(service_uri(each, "work")) for each in ("enrollment", "grants"))
                )
            ),
            id="two identities",
        ),
        pytest.param(lambda: service_pem(as_service("grants"), authorities.without_eku), id="no clientAuth"),
        pytest.param(
            lambda: service_pem(as_service("grants"), authorities.with_eku(ExtendedKeyUsageOID.SERVER_AUTH)), id="a public leaf"
        ),
        pytest.param(peer_pem, id="a federation certificate"),
        pytest.param(lambda: peer_pem(as_service("grants")), id="a federation certificate with a service's URI"),
        pytest.param(lambda: peer_pem(omit(GRANT_ID_OID), as_service("grants")), id="one federation OID left"),
    ],
)
def test_refuses_callers_that_are_no_service_of_this_gateway(make: object) -> None:
    """Whoever is not exactly one service of this gateway is nobody, and all of them get the same answer."""
    assert callable(make)
    with pytest.raises(AccessDenied) as refused:
        parse_service_identity(make(), gateway="work")
    assert refused.value.reason is Reason.CALLER_NOT_ALLOWED
    assert refused.value.layer is Layer.CALLER

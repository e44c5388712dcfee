"""mosaic_common.pki: the offline service PKI."""

import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from mosaic_common import pki
from mosaic_common.auth import Role, TokenIssuer, TokenVerifier, operate_audience, own_issuer
from mosaic_common.errors import AccessDenied, ConfigurationError
from mosaic_common.identity import IDENTITIES, OPERATOR, SERVICES, ServiceIdentity, dns_name, parse_service_identity
from mosaic_common.keys import public_pem
from mosaic_common.pki.files import create_file, replace_file
from mosaic_common.pki.layout import PUBLIC_LISTENERS

from tests.support.clock import FakeClock

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)

EVERYBODY = {"service-root.pem", "internal.pem", "internal.key"}
LISTENER = EVERYBODY | {"public.pem", "public.key"}
MAY_HOLD = {
    "ca-broker": EVERYBODY | {"warrant.pub"},
    "grants": LISTENER | {"warrant.key", "audit.key", "page-token.key", "query-hmac.key", "jwks.json"},
    "enrollment": LISTENER,
    "edge-inbound": LISTENER | {"page-token.key", "query-hmac.key"},
    "edge-outbound": LISTENER | {"jwks.json"},
    "operator": EVERYBODY | {"jwt.key", "audit.pub"},
}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def directory(tmp_path: Path, clock: FakeClock) -> Path:
    pki.init(tmp_path / "pki", "work", "work.example.com", clock=clock)
    return tmp_path / "pki"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(leaf: x509.Certificate) -> list[str]:
    return [str(name.value) for name in leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


def purposes(leaf: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_each_identity_holds_exactly_what_it_may(directory: Path) -> None:
    """A folder is what a break-in into that service yields: nothing more is in it."""
    assert {folder.name for folder in directory.iterdir()} == {"root", *MAY_HOLD} == {"root", *IDENTITIES}
    for name, files in MAY_HOLD.items():
        assert {path.name for path in (directory / name).iterdir()} == files
    assert {path.name for path in (directory / "root").iterdir()} == {"service-root.pem", "service-root.key", "pki.json"}


def test_nobody_else_can_read_anything(directory: Path) -> None:
    """Folders are 0700 and files 0600, whatever the umask."""
    for path in (directory, *directory.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_running_it_again_changes_nothing(directory: Path, clock: FakeClock) -> None:
    """No root, no key and no leaf that is still valid is touched, nor is anything left behind."""
    before = contents(directory)
    clock.advance(timedelta(days=29))
    pki.init(directory, "work", "work.example.com", clock=clock)
    assert contents(directory) == before


def test_running_it_again_replaces_expired_leaves_only(directory: Path, clock: FakeClock) -> None:
    """After their 30 days the leaves are issued anew, for the keys that are there."""
    before = contents(directory)
    clock.advance(timedelta(days=30))
    pki.init(directory, "work", "work.example.com", clock=clock)
    changed = {name for name, content in contents(directory).items() if content != before[name]}
    assert changed == {f"{name}/internal.pem" for name in IDENTITIES} | {f"{name}/public.pem" for name in PUBLIC_LISTENERS}


def test_completes_what_a_crash_left(directory: Path, clock: FakeClock) -> None:
    """Whatever single file is missing is made again, and fits what is there."""
    before = contents(directory)
    for name in ("root/service-root.pem", "grants/internal.pem", "edge-inbound/page-token.key", "ca-broker/warrant.pub"):
        (directory / name).unlink()
    pki.init(directory, "work", "work.example.com", clock=clock)
    after = contents(directory)
    assert after.keys() == before.keys()
    assert after["edge-inbound/page-token.key"] == before["edge-inbound/page-token.key"]
    assert after["ca-broker/warrant.pub"] == before["ca-broker/warrant.pub"]
    certificate(directory / "grants" / "internal.pem").verify_directly_issued_by(
        certificate(directory / "root" / "service-root.pem")
    )


@pytest.mark.parametrize(
    ("gateway", "public_host"),
    [("home", "work.example.com"), ("work", "other.example.com")],
    ids=["another gateway", "another host"],
)
def test_refuses_a_directory_of_another(directory: Path, clock: FakeClock, gateway: str, public_host: str) -> None:
    """One directory is one gateway's; nothing is changed in it."""
    before = contents(directory)
    with pytest.raises(ConfigurationError, match="work"):
        pki.init(directory, gateway, public_host, clock=clock)
    assert contents(directory) == before


@pytest.mark.parametrize("gateway", ["", "Work", "a.b", "-a", "a-", "a" * 64, "work\n", "../x"])
def test_refuses_bad_gateway_names(tmp_path: Path, clock: FakeClock, gateway: str) -> None:
    """A name that could not be a DNS label is refused before anything is written."""
    with pytest.raises(ConfigurationError):
        pki.init(tmp_path / "pki", gateway, "localhost", clock=clock)
    assert not (tmp_path / "pki").exists()


@pytest.mark.parametrize("name", IDENTITIES)
def test_internal_leaves_say_who(directory: Path, name: str) -> None:
    """URI and DNS name of the identity, P-256, 30 days at most; the operator is no server."""
    pem = (directory / name / "internal.pem").read_bytes()
    leaf = certificate(directory / name / "internal.pem")
    assert parse_service_identity(pem, gateway="work") == ServiceIdentity("work", name)
    assert names(leaf) == [f"mosaic://work/svc/{name}", dns_name(name, "work")]
    assert [attribute.value for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [name]
    server = [] if name == OPERATOR else [ExtendedKeyUsageOID.SERVER_AUTH]
    assert purposes(leaf) == [ExtendedKeyUsageOID.CLIENT_AUTH, *server]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=30)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = load_pem_private_key((directory / name / "internal.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.public_key() == leaf.public_key()


@pytest.mark.parametrize("name", PUBLIC_LISTENERS)
def test_public_leaves_are_for_servers_only(directory: Path, name: str) -> None:
    """serverAuth, no URI: presented as a client it is nobody. The root follows, so that a pin finds it in the handshake."""
    pem = (directory / name / "public.pem").read_bytes()
    leaf, root = x509.load_pem_x509_certificates(pem)
    assert root == certificate(directory / "root" / "service-root.pem")
    assert names(leaf) == [dns_name(name, "work"), "work.example.com"]
    assert purposes(leaf) == [ExtendedKeyUsageOID.SERVER_AUTH]
    with pytest.raises(AccessDenied):
        parse_service_identity(pem, gateway="work")


@pytest.mark.parametrize(
    ("public_host", "expected"),
    [
        ("localhost", ["localhost", "127.0.0.1"]),
        ("127.0.0.1", ["localhost", "127.0.0.1"]),
        ("::1", ["localhost", "127.0.0.1", "::1"]),
        ("192.0.2.7", ["192.0.2.7"]),
    ],
)
def test_public_leaves_name_the_host(tmp_path: Path, clock: FakeClock, public_host: str, expected: list[str]) -> None:
    """Plain tools check the host they dialled; loopback has both its names."""
    pki.init(tmp_path, "work", public_host, clock=clock)
    assert names(certificate(tmp_path / "enrollment" / "public.pem"))[1:] == expected


@pytest.mark.parametrize("name", IDENTITIES)
def test_openssl_accepts_every_pair(directory: Path, name: str) -> None:
    """Certificate and key load into a TLS context, as server or client."""
    for pair in ("internal", "public") if name in PUBLIC_LISTENERS else ("internal",):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / name / f"{pair}.pem", directory / name / f"{pair}.key")


def test_issue_renews_the_leaves_and_keeps_the_keys(directory: Path, clock: FakeClock) -> None:
    """A fresh 30 days for the same key: a server that reloads one file at a time never holds a mismatch."""
    before = contents(directory)
    clock.advance(timedelta(days=10))
    pki.issue(directory, "grants", clock=clock)
    changed = {name for name, content in contents(directory).items() if content != before[name]}
    assert changed == {"grants/internal.pem", "grants/public.pem"}
    leaf = certificate(directory / "grants" / "internal.pem")
    assert leaf.not_valid_after_utc == clock.now() + timedelta(days=30) - timedelta(minutes=5)


def test_a_leaf_does_not_outlive_the_root(directory: Path, clock: FakeClock) -> None:
    """Ten days before the root's end, leaves have ten days."""
    root = certificate(directory / "root" / "service-root.pem")
    clock.advance(root.not_valid_after_utc - clock.now() - timedelta(days=10))
    pki.issue(directory, "grants", clock=clock)
    assert certificate(directory / "grants" / "internal.pem").not_valid_after_utc == root.not_valid_after_utc


@pytest.mark.parametrize("identity", ["", "postgres", "root", "../grants"])
def test_issues_to_nobody_else(directory: Path, clock: FakeClock, identity: str) -> None:
    """There is a leaf for each identity and for nobody else."""
    with pytest.raises(ConfigurationError, match="ca-broker"):
        pki.issue(directory, identity, clock=clock)


def test_needs_the_root_that_belongs_to_the_key(directory: Path, clock: FakeClock) -> None:
    """A swapped root key stops everything: its leaves would chain nowhere."""
    replace_file(directory / "root" / "service-root.key", (directory / "grants" / "warrant.key").read_bytes())
    with pytest.raises(ConfigurationError, match=r"service-root\.key"):
        pki.issue(directory, "grants", clock=clock)


def test_an_empty_directory_is_said_to_be_one(tmp_path: Path, clock: FakeClock) -> None:
    """Issuing and showing without a PKI names the command that makes one, and makes nothing."""
    with pytest.raises(ConfigurationError, match="pki init"):
        pki.describe(tmp_path)
    with pytest.raises(ConfigurationError, match="pki init"):
        pki.issue(tmp_path, "grants", clock=clock)
    assert not list(tmp_path.iterdir())


def test_the_halves_of_each_key_fit(directory: Path, clock: FakeClock) -> None:
    """The broker verifies grants' warrants, the operator the audit heads, both listeners the operator's tokens."""
    for secret, public in (("grants/warrant.key", "ca-broker/warrant.pub"), ("grants/audit.key", "operator/audit.pub")):
        key = load_pem_private_key((directory / secret).read_bytes(), None)
        assert public_pem(key.public_key()) == (directory / public).read_bytes()  # type: ignore[arg-type]
        load_pem_public_key((directory / public).read_bytes())
    token = TokenIssuer((directory / "operator" / "jwt.key").read_bytes(), "work", clock).issue(
        "ada", [Role.ADMIN], operate_audience("work"), timedelta(minutes=5)
    )
    for holder in ("grants", "edge-outbound"):
        jwks = json.loads((directory / holder / "jwks.json").read_bytes())
        verifier = TokenVerifier(jwks, issuer=own_issuer("work"), audience=operate_audience("work"), gateway="work", clock=clock)
        assert verifier.verify(token).subject == "ada"


def test_secrets_are_shared_by_grants_and_the_inbound_edge_only(directory: Path) -> None:
    """The same 32 bytes in both folders, one line of base64, and two different keys."""
    page_token, query_hmac = ((directory / "grants" / name).read_bytes() for name in ("page-token.key", "query-hmac.key"))
    assert page_token != query_hmac
    assert page_token == (directory / "edge-inbound" / "page-token.key").read_bytes()
    assert query_hmac == (directory / "edge-inbound" / "query-hmac.key").read_bytes()


def test_describes_what_is_there_and_no_secret(directory: Path) -> None:
    """Everything a stranger's client needs, and not one byte of a key."""
    described = pki.describe(directory)
    assert (described.gateway, described.public_host) == ("work", "work.example.com")
    assert [identity.name for identity in described.identities] == list(IDENTITIES)
    assert {identity.name for identity in described.identities if identity.public} == set(PUBLIC_LISTENERS)
    grants = described.identities[IDENTITIES.index("grants")]
    assert grants.internal.not_after == NOW + timedelta(days=30) - timedelta(minutes=5)
    assert "PRIVATE" not in repr(described)
    assert len(SERVICES) == 5


def test_creating_a_file_never_overwrites(tmp_path: Path) -> None:
    """Two processes that create the same key both use the first one's."""
    path = tmp_path / "key"
    assert create_file(path, b"first") == b"first"
    assert create_file(path, b"second") == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]

"""infra/step-ca and the broker's adapter, on a real step-ca."""

import json
import os
import re
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_ca_broker.adapters.embedded_ca import EmbeddedCa
from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.adapters.provisioner_key import ProvisionerKey
from mosaic_ca_broker.adapters.signing_claims import signing_claims
from mosaic_ca_broker.adapters.step_ca import StepCa
from mosaic_common.clock import SystemClock
from mosaic_common.errors import CA_MAY_HAVE_SIGNED, CaError, CaRefused, CaUnreachable, ConfigurationError

from tests.support.orders import SigningOrder
from tests.support.stepca import StepCaServer, initialised_step_ca, running_step_ca

pytestmark = pytest.mark.stepca


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepCaServer]:
    with running_step_ca(tmp_path_factory.mktemp("integration") / "step-ca") as running:
        yield running


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def ca_json(server: StepCaServer) -> dict[str, object]:
    document: dict[str, object] = json.loads((server.directory / "config" / "ca.json").read_text())
    return document


class TestInit:
    """The first boot, and every later one."""

    def test_changes_nothing_the_second_time(self, tmp_path: Path) -> None:
        """Not a byte: neither keys nor configuration."""
        with initialised_step_ca(tmp_path / "step-ca") as server:
            before = contents(server.directory)
            assert server.init().returncode == 0
            assert contents(server.directory) == before

    def test_begins_again_after_a_boot_that_was_cut_short(self, tmp_path: Path) -> None:
        """Half-made keys are never taken for an authority."""
        unfinished = tmp_path / "step-ca" / ".first-boot"
        unfinished.mkdir(parents=True)
        (unfinished / "root_ca.crt").write_text("half a certif")
        with initialised_step_ca(tmp_path / "step-ca") as server:
            assert server.root.fingerprint.hex() == (server.directory / "certs" / "root_ca.sha256").read_text().strip()
            assert not unfinished.exists()

    def test_never_replaces_keys_under_a_database(self, tmp_path: Path) -> None:
        """A volume that lost its keys needs them back: a new root would orphan every certificate."""
        with initialised_step_ca(tmp_path / "step-ca") as server:
            (server.directory / "db").mkdir()
            (server.directory / "secrets").rename(tmp_path / "elsewhere")
            refusal = server.init()
            assert refusal.returncode == 1
            assert "restore secrets/" in refusal.stderr

    def test_serves_no_private_key(self, server: StepCaServer) -> None:
        """encryptedKey would be handed to anyone who asks; the exported key is its owner's alone, and there is one provisioner."""
        text = (server.directory / "config" / "ca.json").read_text()
        assert "encryptedKey" not in text
        assert '"d"' not in text
        assert stat.S_IMODE((server.directory / "secrets" / "mosaic-fed.json").stat().st_mode) == 0o600
        assert text.count('"type": "JWK"') == 1

    def test_switches_off_what_would_go_round_the_template(self, server: StepCaServer) -> None:
        """Renewal would copy extensions past the template, and smallstep's own extension is not in the profile."""
        authority = ca_json(server)["authority"]
        assert isinstance(authority, dict)
        (provisioner,) = authority["provisioners"]
        assert provisioner["claims"]["disableRenewal"] is True
        assert provisioner["claims"]["disableSmallstepExtensions"] is True
        assert provisioner["claims"]["maxTLSCertDuration"] == "720h"
        assert authority["disableIssuedAtCheck"] is True

    def test_switches_the_list_on(self, server: StepCaServer) -> None:
        """Written with each revocation, and again in any case long before a reader would call it old."""
        assert ca_json(server)["crl"] == {
            "enabled": True,
            "generateOnRevoke": True,
            "cacheDuration": "24h",
            "renewPeriod": "15m",
            "idpURL": "",
        }


def serve(server: StepCaServer, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Start the broker as a process with what an operator would give it, for as long as it takes to refuse."""
    environment = {
        "PATH": os.environ["PATH"],
        "MOSAIC_GATEWAY": "work",
        "MOSAIC_PKI_DIR": str(server.directory),
        "MOSAIC_INTERNAL_LISTEN": "127.0.0.1:1",
        "STEP_CA_URL": server.url,
        "STEP_CA_PROVISIONER_KEY_JSON_FILE": str(server.directory / "secrets" / "mosaic-fed.json"),
        "STEP_CA_ROOT_CERT_PATH": str(server.root_path),
        "STEP_CA_ROOT_FINGERPRINT": server.root.fingerprint.hex(),
    }
    command = [sys.executable, "-m", "mosaic_ca_broker", "serve"]
    return subprocess.run(command, env=environment | changes, capture_output=True, text=True, check=False, timeout=30)


class TestPinning:
    """Only the pinned root is believed."""

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            pytest.param({"STEP_CA_ROOT_FINGERPRINT": "0" * 64}, "STEP_CA_ROOT_FINGERPRINT", id="another fingerprint"),
            pytest.param({"STEP_CA_ROOT_CERT_PATH": "/nowhere"}, "/nowhere", id="no root"),
            pytest.param({"STEP_CA_PROVISIONER_KEY_JSON_FILE": "/nowhere"}, "STEP_CA_PROVISIONER_KEY_JSON_FILE", id="no key"),
            pytest.param(
                {"STEP_CA_PROVISIONER_PASSWORD": "example-only-write-your-own"},
                "STEP_CA_PROVISIONER_PASSWORD",
                id="the example password",
            ),
            pytest.param({}, "warrant", id="all of that right: the next thing that is missing"),
        ],
    )
    def test_stops_the_start_with_one_sentence(self, server: StepCaServer, changes: dict[str, str], named: str) -> None:
        """What cannot be believed is found before anything listens, and named."""
        done = serve(server, **changes)
        assert done.returncode == 1
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith("ca-broker: ")
        assert named in sentence

    async def test_does_not_talk_to_another_authority(self, server: StepCaServer, tmp_path: Path) -> None:
        """A server under another root gets no token: the handshake ends first, and the remedy names the pin."""
        embedded_ca_folder.init(tmp_path / "other", now=datetime.now(UTC))
        other = FederationRoot.load(tmp_path / "other" / "root.pem", environment="dev")
        client = StepCa(server.url, other, server.provisioner_key, SystemClock())
        order = SigningOrder.make()
        with pytest.raises(CaUnreachable) as refusal:
            await client.sign(order.csr, order.warrant)
        await client.aclose()
        assert refusal.value.remedy is not None
        assert "STEP_CA_ROOT_CERT_PATH" in refusal.value.remedy
        # The warrant is unspent: the right authority still honours it.
        right = server.client()
        assert await right.sign(order.csr, order.warrant)
        await right.aclose()

    async def test_does_not_talk_under_another_name(self, server: StepCaServer) -> None:
        """The right root is not enough: the name has to be one of the authority's."""
        client = StepCa(f"https://127.0.0.2:{server.port}", server.root, server.provisioner_key, SystemClock())
        with pytest.raises(CaUnreachable):
            await client.ping()
        await client.aclose()

    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY", "ALL_PROXY"])
    async def test_ignores_the_environment(
        self, server: StepCaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        """Neither a CA bundle nor a proxy from the environment changes whom the broker talks to."""
        embedded_ca_folder.init(tmp_path / "other", now=datetime.now(UTC))
        monkeypatch.setenv(variable, "http://127.0.0.1:9" if "PROXY" in variable else str(server.root_path))
        right = server.client()
        await right.ping()
        await right.aclose()
        other = FederationRoot.load(tmp_path / "other" / "root.pem", environment="dev")
        wrong = StepCa(server.url, other, server.provisioner_key, SystemClock())
        with pytest.raises(CaUnreachable):
            await wrong.ping()
        await wrong.aclose()

    async def test_says_when_nobody_is_there(self, server: StepCaServer) -> None:
        """A stopped authority is unreachable, in a sentence."""
        client = StepCa("https://127.0.0.1:9", server.root, server.provisioner_key, SystemClock())
        with pytest.raises(CaUnreachable, match=r"https://127\.0\.0\.1:9"):
            await client.ping()
        await client.aclose()


class TestProvisionerKey:
    """The exported key."""

    async def test_may_be_encrypted(self, tmp_path: Path) -> None:
        """The JWE that step 0.29 writes, 600,000 rounds, opens with its password, signs, and opens with no other."""
        password = "a-password-that-only-the-broker-has"
        with running_step_ca(tmp_path / "step-ca", provisioner_password=password) as server:
            document = (server.directory / "secrets" / "mosaic-fed.json").read_text()
            assert '"ciphertext"' in document
            client, order = server.client(), SigningOrder.make()
            order.verify(list(await client.sign(order.csr, order.warrant)), server.root.pem)
            await client.aclose()
            compact = ".".join(json.loads(document)[part] for part in ("protected", "encrypted_key", "iv", "ciphertext", "tag"))
            assert ProvisionerKey.parse(compact, password=password).kid == server.provisioner_key.kid
            for wrong in (None, "too-short", "a-password-of-somebody-else"):
                with pytest.raises(ConfigurationError, match="STEP_CA_PROVISIONER"):
                    ProvisionerKey.parse(document, password=wrong)

    async def test_of_another_authority_signs_nothing(self, server: StepCaServer, tmp_path: Path) -> None:
        """A key that the authority does not know is a refusal with a remedy, not a crash."""
        with initialised_step_ca(tmp_path / "step-ca") as other:
            client, order = StepCa(server.url, server.root, other.provisioner_key, SystemClock()), SigningOrder.make()
            with pytest.raises(CaRefused) as refusal:
                await client.sign(order.csr, order.warrant)
            await client.aclose()
        assert refusal.value.remedy is not None
        assert "provisioner key" in refusal.value.remedy


async def test_is_told_why_without_a_line_of_ones_own(tmp_path: Path) -> None:
    """A reason reaches step-ca's log as one printable field of its entry, whatever an operator typed."""
    with running_step_ca(tmp_path / "step-ca") as server:
        client = server.client()
        await client.revoke(12345, reason='laptop lost\n{"level":"fake"}')
        await client.aclose()
        entries = [json.loads(line) for line in (server.directory / "log").read_text().splitlines() if line.startswith("{")]
    (entry,) = (each for each in entries if each.get("serial") == "12345")
    assert (entry["reason"], entry["reasonCode"]) == ('laptop lost?{"level":"fake"}', 9)


Configure = Callable[[dict[str, Any]], object]


@contextmanager
def reconfigured(tmp_path: Path, configure: Configure) -> Iterator[StepCaServer]:
    """Yield a running authority whose ca.json is not what init.sh wrote."""
    with initialised_step_ca(tmp_path / "step-ca") as server:
        configuration = server.directory / "config" / "ca.json"
        document = json.loads(configuration.read_text())
        configure(document)
        configuration.write_text(json.dumps(document))
        server.start()
        yield server


def without_database(configuration: dict[str, Any]) -> None:
    del configuration["db"], configuration["crl"]


def without_list(configuration: dict[str, Any]) -> None:
    del configuration["crl"]


def provisioner_of(configuration: dict[str, Any]) -> dict[str, Any]:
    (provisioner,) = configuration["authority"]["provisioners"]
    found: dict[str, Any] = provisioner
    return found


def with_short_lifetimes(configuration: dict[str, Any]) -> None:
    provisioner_of(configuration)["claims"] |= {"maxTLSCertDuration": "1h", "defaultTLSCertDuration": "1h"}


def with_broken_template(configuration: dict[str, Any]) -> None:
    provisioner_of(configuration)["options"] = {"x509": {"template": '{"subject": '}}


def with_other_provisioner(configuration: dict[str, Any]) -> None:
    provisioner_of(configuration)["name"] = "somebody-else"


class TestMisconfigured:
    """A step-ca that is not set up as infra/step-ca does: each mistake is a typed error that names what to do about it."""

    @pytest.mark.parametrize(
        ("configure", "error", "may_have_signed", "remedy"),
        [
            pytest.param(with_short_lifetimes, CaRefused, "false", "claims of provisioner", id="403: other claims"),
            pytest.param(with_other_provisioner, CaRefused, "true", "provisioner key", id="401: another provisioner"),
            pytest.param(with_broken_template, CaUnreachable, "true", "template", id="500: a template that does not parse"),
        ],
    )
    async def test_when_it_signs(
        self, tmp_path: Path, configure: Configure, error: type[CaError], may_have_signed: str, remedy: str
    ) -> None:
        """What cannot be signed says why, and whether it may have been."""
        with reconfigured(tmp_path, configure) as server:
            client, order = server.client(), SigningOrder.make()
            with pytest.raises(CaError) as refusal:
                await client.sign(order.csr, order.warrant)
            await client.aclose()
        assert type(refusal.value) is error
        assert refusal.value.metadata[CA_MAY_HAVE_SIGNED] == may_have_signed
        assert refusal.value.remedy is not None
        assert remedy in refusal.value.remedy

    @pytest.mark.parametrize(
        ("configure", "error", "remedy"),
        [
            pytest.param(without_database, CaUnreachable, "--no-db", id="501: no database"),
            pytest.param(with_other_provisioner, CaRefused, "token of its own", id="401: another provisioner"),
        ],
    )
    async def test_when_it_revokes(self, tmp_path: Path, configure: Configure, error: type[CaError], remedy: str) -> None:
        """A revocation that was not stored stays owed, and the remedy says what keeps it so."""
        with reconfigured(tmp_path, configure) as server:
            client = server.client()
            with pytest.raises(CaError) as refusal:
                await client.revoke(7, reason="")
            await client.aclose()
        assert type(refusal.value) is error
        assert refusal.value.remedy is not None
        assert remedy in refusal.value.remedy

    @pytest.mark.parametrize("configure", [without_database, without_list])
    async def test_when_it_publishes(self, tmp_path: Path, configure: Configure) -> None:
        """404: an authority without a list is one whose revocations nobody sees."""
        with reconfigured(tmp_path, configure) as server:
            client = server.client()
            with pytest.raises(CaRefused) as refusal:
                await client.revocation_list()
            await client.aclose()
        assert refusal.value.remedy is not None
        assert "switches the list on" in refusal.value.remedy


HOSTILE = {
    "subject": {"commonName": "work"},
    "crlDistributionPoint": "https://evil.example.com/crl",
    "Token": {"mosaic_grant_id": "00000000-0000-4000-8000-000000000001"},
    "mosaic_grant_id": "00000000-0000-4000-8000-000000000001",
    "Insecure": {"User": {}},
    "sans": [{"type": "dns", "value": "evil.example.com"}],
    "extensions": [{"id": "1.3.6.1.4.1.99999.1", "value": "DAF4"}],
    "basicConstraints": {"isCA": True},
}


async def test_takes_nothing_from_template_data(server: StepCaServer) -> None:
    """What a requester sends beside its token changes no byte of the certificate's content, and stands in for no claim."""
    order = SigningOrder.make()
    claims = signing_claims(order.csr, order.warrant)
    order.verify(await redeem_raw(server, order, claims), server.root.pem)
    again = SigningOrder.make()
    claims = signing_claims(again.csr, again.warrant)
    del claims["mosaic_grant_id"]
    with pytest.raises(httpx.HTTPStatusError) as refusal:
        await redeem_raw(server, again, claims)
    assert refusal.value.response.status_code == 400
    assert "the claim mosaic_grant_id is absent" in refusal.value.response.text


async def redeem_raw(server: StepCaServer, order: SigningOrder, claims: dict[str, Any]) -> list[bytes]:
    token = server.provisioner_key.mint(claims, audience=f"{server.url}/1.0/sign", now=datetime.now(UTC))
    csr = x509.load_der_x509_csr(order.csr.der).public_bytes(Encoding.PEM).decode()
    request = {"csr": csr, "ott": token, "notAfter": f"{order.warrant.not_after:%Y-%m-%dT%H:%M:%SZ}", "templateData": HOSTILE}
    async with httpx.AsyncClient(verify=server.root.tls_context(), trust_env=False) as raw:
        answer = (await raw.post(f"{server.url}/1.0/sign", json=request)).raise_for_status()
    return [ssl.PEM_cert_to_DER_cert(pem) for pem in answer.json()["certChain"]]


@pytest.mark.openssl
async def test_names_its_list_where_one_is_configured(tmp_path: Path) -> None:
    """The certificate names the list, the list names itself the same, and openssl finds the revoked certificate on it."""
    url = "https://ca.example.com/federation.crl"
    with initialised_step_ca(tmp_path / "step-ca", CRL_DISTRIBUTION_POINT=url) as server:
        server.start()
        client = server.client()
        leaves = []
        for name in ("revoked", "live"):
            order = SigningOrder.make()
            chain = list(await client.sign(order.csr, order.warrant))
            order.verify(chain, server.root.pem)
            leaves.append(x509.load_der_x509_certificate(chain[0]))
            (tmp_path / f"{name}.pem").write_text(ssl.DER_cert_to_PEM_cert(chain[0]))
            if name == "revoked":
                await client.revoke(order.warrant.serial, reason="")
        shown = await client.revocation_list()
        await client.aclose()
    for leaf in leaves:
        (extension,) = (each for each in leaf.extensions if isinstance(each.value, x509.CRLDistributionPoints))
        assert not extension.critical
        assert [[name.value for name in point.full_name or ()] for point in extension.value] == [[url]]
    crl = x509.load_der_x509_crl(shown.crl_der)
    names = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value.full_name
    assert [name.value for name in names or ()] == [url]

    (tmp_path / "crl.pem").write_bytes(crl.public_bytes(Encoding.PEM))
    intermediate = server.directory / "certs" / "intermediate_ca.crt"
    checks: list[str | Path] = ["-CAfile", server.root_path, "-untrusted", intermediate, "-crl_check", "-CRLfile"]
    checks.append(tmp_path / "crl.pem")
    assert "OK" in openssl("verify", *checks, tmp_path / "live.pem")
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        openssl("verify", *checks, tmp_path / "revoked.pem")
    assert "certificate revoked" in refusal.value.stderr


@pytest.mark.openssl
@pytest.mark.parametrize("backend", ["embedded", "step-ca"])
async def test_openssl_reads_the_profile(server: StepCaServer, tmp_path: Path, backend: str) -> None:
    """What openssl prints of a certificate: both ids as UTF8String UUIDs, P-256, clientAuth only, and no extension besides."""
    order = SigningOrder.make()
    authority: EmbeddedCa | StepCa
    if backend == "embedded":
        embedded_ca_folder.init(tmp_path / "ca", now=datetime.now(UTC))
        authority = EmbeddedCa.open(tmp_path / "ca", environment="dev", clock=SystemClock())
    else:
        authority = server.client()
    leaf, *_ = await authority.sign(order.csr, order.warrant)
    await authority.aclose()

    path = tmp_path / "leaf.pem"
    path.write_text(ssl.DER_cert_to_PEM_cert(leaf))
    text = openssl("x509", "-in", path, "-noout", "-text")
    assert re.findall(r"^ {12}(\S.*?): ?(critical)?\s*$", text, re.MULTILINE) == [
        ("X509v3 Key Usage", "critical"),
        ("X509v3 Extended Key Usage", ""),
        ("X509v3 Basic Constraints", "critical"),
        ("X509v3 Subject Key Identifier", ""),
        ("X509v3 Authority Key Identifier", ""),
        ("1.3.6.1.4.1.99999.1", ""),
        ("1.3.6.1.4.1.99999.2", ""),
    ]
    assert "Subject: CN = home\n" in text or "Subject: CN=home\n" in text
    assert "NIST CURVE: P-256" in text
    assert re.search(r"Extended Key Usage: \n +TLS Web Client Authentication\n", text)
    assert re.search(r"X509v3 Key Usage: critical\n +Digital Signature\n", text)
    assert "CA:FALSE" in text

    structure = openssl("asn1parse", "-in", path)
    for oid, value in (("1.3.6.1.4.1.99999.1", order.warrant.grant_id), ("1.3.6.1.4.1.99999.2", order.warrant.subject_user_id)):
        dumped = re.search(rf"OBJECT +:{re.escape(oid)}\n.*OCTET STRING +\[HEX DUMP\]:([0-9A-F]+)", structure)
        assert dumped is not None
        # 0x0C is the tag of a UTF8String, 0x24 the length of a UUID.
        assert bytes.fromhex(dumped[1]) == b"\x0c\x24" + str(value).encode("ascii")


def openssl(*arguments: str | Path) -> str:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True).stdout

"""infra/step-ca and the broker's adapter, on a real step-ca."""

import json
import re
import ssl
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_ca_broker.adapters.embedded_ca import EmbeddedCa
from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.adapters.provisioner_key import ProvisionerKey
from mosaic_ca_broker.adapters.step_ca import StepCa
from mosaic_common.clock import SystemClock
from mosaic_common.errors import CaRefused, CaUnreachable, ConfigurationError

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

    def test_refuses_the_shipped_password(self, tmp_path: Path) -> None:
        """The example opens nothing in production, and everything in development."""
        with initialised_step_ca(tmp_path / "step-ca") as server:
            server.password = (Path(__file__).parents[2] / "infra" / "step-ca" / "dev-password.example").read_text()
            assert "shipped example" in server.init().stderr
            assert server.init(MOSAIC_ENV="dev").returncode == 0

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


class TestPinning:
    """Only the pinned root is believed."""

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


async def test_lists_revocations_after_a_crash(tmp_path: Path) -> None:
    """A serial that was revoked stays on the list through kill −9, signed or not."""
    order = SigningOrder.make()
    with running_step_ca(tmp_path / "step-ca") as server:
        client = server.client()
        await client.sign(order.csr, order.warrant)
        for serial in (order.warrant.serial, 12345):
            await client.revoke(serial)
        await client.aclose()
        server.kill()
        server.start()
        async with httpx.AsyncClient(verify=server.root.tls_context(), trust_env=False) as plain:
            crl = (await plain.get(f"{server.url}/1.0/crl")).content
    revoked = {entry.serial_number for entry in x509.load_der_x509_crl(crl)}
    assert revoked == {order.warrant.serial, 12345}


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

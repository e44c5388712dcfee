"""mosaic_common.tokens: a secret that signs and never travels."""

import base64
import hashlib
import string
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from mosaic_common.errors import InvalidInput, Layer, Reason, TokenRefused
from mosaic_common.tokens import (
    EnrollmentOffer,
    EnrollmentToken,
    EnrollmentUrl,
    enroll_proof_message,
    renew_proof_message,
    token_id,
    verify_enroll_proof,
    verify_token_public_key,
)

# RFC 8032 §7.1, test 1: the seed and its public key.
RFC_SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_PUBLIC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")

TOKEN = EnrollmentToken(RFC_SEED)
TEXT = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
CSR = b"a signing request"
REDEMPTION = UUID("0B4E3C2A-9F1D-4C5B-8A76-1E2D3C4B5A69")
PIN = bytes(range(32))
URL = f"https://work.example.com:7444/api/federation/enrollment#gateway=work&cn=home&sha256={PIN.hex()}&token={TEXT}"


def test_a_token_is_an_ed25519_seed() -> None:
    """Public key, id and spelling follow from 32 bytes (vector: RFC 8032 §7.1, test 1)."""
    assert TOKEN.public_key == RFC_PUBLIC_KEY
    assert token_id(TOKEN.public_key) == hashlib.sha256(RFC_PUBLIC_KEY).digest()
    assert TOKEN.encode() == TEXT
    assert EnrollmentToken.parse(TEXT) == TOKEN
    assert EnrollmentToken.generate() != EnrollmentToken.generate()


def test_a_token_shows_itself_nowhere() -> None:
    """Neither a token nor a URL betrays its secret when it is printed or logged."""
    shown = f"{TOKEN!r} {TOKEN} {EnrollmentUrl.parse(URL)!r} {EnrollmentUrl.parse(URL)}"
    assert TEXT not in shown
    assert RFC_SEED.hex() not in shown
    assert repr(RFC_SEED) not in shown


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(TEXT[:-1], id="one character short"),
        pytest.param(TEXT + "A", id="one character long"),
        pytest.param(TEXT + "=", id="padded"),
        pytest.param(TEXT.replace("_", "/"), id="plain base64 alphabet"),
        pytest.param(TEXT[:-1] + "B", id="stray bits: a second spelling of the same bytes"),
        pytest.param(" " + TEXT[1:], id="a space"),
        pytest.param("é" + TEXT[1:], id="not ASCII"),
        *(
            pytest.param(base64.urlsafe_b64encode(bytes(size)).decode().rstrip("="), id=f"{size} bytes")
            for size in (1, 16, 31, 33, 64)
        ),
        *(
            pytest.param(character + TEXT[1:], id=f"{character!r} is not of the alphabet")
            for character in string.printable
            if character not in string.ascii_letters + string.digits + "-_"
        ),
        pytest.param(TEXT[:20] + "\n" + TEXT[20:], id="broken over two lines"),
        pytest.param("\uff4e" + TEXT[1:], id="a full-width letter"),
        pytest.param("\ud800" + TEXT[1:], id="half of a surrogate pair"),
        pytest.param(TEXT * 2, id="twice"),
        pytest.param("A" * 100_000, id="100 kB"),
    ],
)
def test_refuses_other_spellings_without_repeating_them(text: str) -> None:
    """A token has one spelling; a mistyped one is most of a real one, so it is not echoed."""
    with pytest.raises(InvalidInput) as refused:
        EnrollmentToken.parse(text)
    assert refused.value.violations[0].field == "token"
    assert not text or text not in refused.value.message


def test_enroll_message_is_the_documented_layout() -> None:
    """architecture.md, step 2: tag, NUL, SHA-256 of the CSR, redemption id in lower-case ASCII, pin."""
    digest = hashlib.sha256(CSR).digest()
    expected = b"mosaic-enroll-v1" + b"\x00" + digest + b"0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69" + PIN
    assert enroll_proof_message(CSR, REDEMPTION, PIN) == expected
    assert len(expected) == 16 + 1 + 32 + 36 + 32


def test_no_pin_is_32_zeros() -> None:
    """A publicly trusted listener has no pin; its place is filled."""
    assert enroll_proof_message(CSR, REDEMPTION, None)[-32:] == bytes(32)


def test_renew_message_is_the_documented_layout() -> None:
    """architecture.md, Renewal: tag, NUL, grant id, SHA-256 of the CSR, current fingerprint, decimal seconds."""
    at = datetime(2026, 3, 2, 9, 30, 0, 999999, tzinfo=UTC)
    expected = (
        b"mosaic-renew-v1" + b"\x00" + b"0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69" + hashlib.sha256(CSR).digest() + PIN + b"1772443800"
    )
    assert renew_proof_message(REDEMPTION, CSR, PIN, at) == expected


@pytest.mark.openssl
def test_openssl_alone_makes_the_proof(tmp_path: Path) -> None:
    """A peer with nothing but openssl 3 and a shell proves possession of the token."""
    (tmp_path / "token.txt").write_text(TEXT)
    (tmp_path / "request.der").write_bytes(CSR)
    script = f"""
        set -eu
        # PKCS#8 of an Ed25519 key is 16 fixed bytes and the seed (RFC 8410 §7).
        {{ printf '\\060\\056\\002\\001\\000\\060\\005\\006\\003\\053\\145\\160\\004\\042\\004\\040'
          printf '%s=' "$(cat token.txt)" | tr -- '-_' '+/' | openssl base64 -d -A; }} > token.der
        {{ printf 'mosaic-enroll-v1\\000'
          openssl dgst -sha256 -binary request.der
          printf '%s' {REDEMPTION}
          printf "$(printf '%s' {PIN.hex()} | sed 's/../\\\\x&/g')"; }} > message
        openssl pkey -inform DER -in token.der -pubout -outform DER | tail -c 32 > public
        openssl pkeyutl -sign -rawin -keyform DER -inkey token.der -in message -out proof
    """
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "message").read_bytes() == enroll_proof_message(CSR, REDEMPTION, PIN)
    assert (tmp_path / "public").read_bytes() == TOKEN.public_key
    assert (tmp_path / "proof").read_bytes() == TOKEN.prove(CSR, REDEMPTION, PIN)


def test_accepts_the_proof_of_whoever_holds_the_token() -> None:
    """With and without a pin."""
    for pin in (PIN, None):
        verify_enroll_proof(TOKEN.public_key, CSR, REDEMPTION, pin, TOKEN.prove(CSR, REDEMPTION, pin))


PROOF = TOKEN.prove(CSR, REDEMPTION, PIN)


@pytest.mark.parametrize(
    ("public_key", "csr", "redemption", "pin", "proof"),
    [
        pytest.param(EnrollmentToken.generate().public_key, CSR, REDEMPTION, PIN, PROOF, id="another token"),
        pytest.param(b"", CSR, REDEMPTION, PIN, PROOF, id="no public key"),
        pytest.param(RFC_PUBLIC_KEY + b"\x00", CSR, REDEMPTION, PIN, PROOF, id="33 bytes of public key"),
        pytest.param(RFC_PUBLIC_KEY, CSR + b"\x00", REDEMPTION, PIN, PROOF, id="another CSR"),
        pytest.param(RFC_PUBLIC_KEY, CSR, UUID(int=1), PIN, PROOF, id="another redemption"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, bytes(32), PROOF, id="another listener's pin"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, None, PROOF, id="pin left out"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, PIN[::-1], PROOF, id="the pin backwards"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, PIN[:-1], PROOF, id="a shorter pin"),
        pytest.param(RFC_PUBLIC_KEY, b"", REDEMPTION, PIN, PROOF, id="no CSR"),
        pytest.param(RFC_PUBLIC_KEY[:-1], CSR, REDEMPTION, PIN, PROOF, id="31 bytes of public key"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, PIN, b"", id="no proof"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, PIN, PROOF[:-1], id="truncated by a byte"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, PIN, PROOF[:32], id="half of it"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, PIN, bytes(64), id="zeros"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, PIN, PROOF + b"\x00", id="trailing byte"),
        pytest.param(RFC_PUBLIC_KEY, CSR, REDEMPTION, PIN, bytes([PROOF[0] ^ 1]) + PROOF[1:], id="one bit altered"),
    ],
)
def test_refuses_proofs_as_if_the_token_were_unknown(
    public_key: bytes, csr: bytes, redemption: UUID, pin: bytes | None, proof: bytes
) -> None:
    """A wrong proof says nothing about whether the token exists."""
    with pytest.raises(TokenRefused) as refused:
        verify_enroll_proof(public_key, csr, redemption, pin, proof)
    assert refused.value.reason is Reason.ENROLLMENT_TOKEN_UNKNOWN
    assert refused.value.layer is Layer.TOKEN


def test_reads_and_writes_the_url() -> None:
    """Every part comes back, and formatting gives the same URL."""
    url = EnrollmentUrl.parse(URL)
    assert (url.host, url.port, url.target, url.address) == (
        "work.example.com",
        7444,
        "work.example.com:7444",
        "https://work.example.com:7444",
    )
    assert (url.gateway, url.common_name, url.pin, url.token) == ("work", "home", PIN, TOKEN)
    assert url.format() == URL


def test_grants_answers_the_url_without_its_token() -> None:
    """What grants knows is the offer; the CLI, which made the token, completes it."""
    offer = EnrollmentOffer.parse(URL.split("&token=", maxsplit=1)[0])
    assert offer.format() + f"&token={TEXT}" == offer.with_token(TOKEN).format() == URL


@pytest.mark.parametrize(
    ("host", "target"), [("127.0.0.1", "127.0.0.1:7444"), ("::1", "[::1]:7444"), ("localhost", "localhost:7444")]
)
def test_knows_addresses_without_names(host: str, target: str) -> None:
    """Loopback and IPv6 survive the round trip; a publicly trusted listener has no pin."""
    offer = EnrollmentOffer(host=host, port=7444, gateway="work", common_name="home", pin=None)
    assert offer.target == target
    assert EnrollmentOffer.parse(offer.format()) == offer


def test_the_default_port_is_that_of_https() -> None:
    """A passthrough on 443 needs no port in the URL."""
    assert EnrollmentUrl.parse(URL.replace(":7444", "")).port == 443


@pytest.mark.parametrize(
    ("url", "part"),
    [
        pytest.param("", "scheme", id="nothing"),
        pytest.param(URL.replace("https", "http"), "scheme", id="http"),
        pytest.param(URL.replace("work.example.com:7444", ""), "host", id="no host"),
        pytest.param(URL.replace("work.example", "me:secret@work.example"), "host", id="user name"),
        pytest.param(URL.replace("work.example.com", "work_example"), "host", id="underscore"),
        pytest.param(URL.replace("7444", "74444"), "url", id="port over 65535"),
        pytest.param(URL.replace("7444", "0"), "host", id="port 0"),
        pytest.param(URL.replace("work.example.com", "[::1"), "url", id="open bracket"),
        pytest.param(URL.replace("/enrollment", "/enrolment"), "path", id="another path"),
        pytest.param(URL.replace("#", "?a=b#"), "path", id="a query, which would be sent"),
        pytest.param(URL.replace("#", "?"), "path", id="everything in the query: already sent somewhere"),
        pytest.param(URL.split("#", maxsplit=1)[0], "token", id="no fragment"),
        pytest.param(URL + "&x=1", "fragment", id="unknown name"),
        pytest.param(URL + "&gateway=evil", "fragment", id="gateway twice"),
        pytest.param(URL + "&token", "fragment", id="no equals sign"),
        pytest.param(URL.replace("gateway=work&", ""), "gateway", id="no gateway"),
        pytest.param(URL.replace("gateway=work", "gateway=Work"), "gateway", id="gateway in upper case"),
        pytest.param(URL.replace("gateway=work", "gateway=a.b"), "gateway", id="gateway with a dot: another name under TLS"),
        pytest.param(URL.replace("gateway=work", "gateway=-a"), "gateway", id="gateway begins with a hyphen"),
        pytest.param(URL.replace("gateway=work", "gateway=work%0a"), "gateway", id="gateway with an encoded line feed"),
        pytest.param(URL.replace("cn=home&", ""), "cn", id="no common name"),
        pytest.param(URL.replace("cn=home", "cn="), "cn", id="empty common name"),
        pytest.param(URL.replace(PIN.hex(), PIN.hex()[:-2]), "sha256", id="short pin"),
        pytest.param(URL.replace(PIN.hex(), PIN.hex().upper()), "sha256", id="pin in upper case"),
        pytest.param(URL.replace(PIN.hex(), ""), "sha256", id="empty pin: not the same as none"),
        pytest.param(URL.split("&token=", maxsplit=1)[0], "token", id="no token"),
        pytest.param(URL[:-3], "token", id="cut off at the end"),
        pytest.param(URL[:50] + "\n" + URL[50:], "url", id="broken over two lines"),
        pytest.param(URL + " ", "url", id="trailing space"),
        pytest.param(URL + "\u202e", "url", id="bidirectional override"),
        pytest.param(URL + "A" * 2048, "url", id="too long"),
    ],
)
def test_refuses_urls_naming_the_part_and_not_the_token(url: str, part: str) -> None:
    """Each mistake is named by its part; what was pasted is not repeated, since it holds the token."""
    with pytest.raises(InvalidInput) as refused:
        EnrollmentUrl.parse(url)
    assert [violation.field for violation in refused.value.violations] == [part]
    assert TEXT[:20] not in str(refused.value)
    assert TEXT[:20] not in refused.value.violations[0].description


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(bytes(32), id="zeros: a buffer that nobody filled"),
        pytest.param(b"\x01" + bytes(31), id="the neutral element"),
        pytest.param(b"\x01" + bytes(30) + b"\x80", id="the neutral element, with a sign"),
        pytest.param(b"\xec" + b"\xff" * 30 + b"\x7f", id="order 2"),
        pytest.param(b"\xed" + b"\xff" * 30 + b"\xff", id="order 4, not reduced"),
        pytest.param(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"), id="order 8"),
        pytest.param(b"", id="nothing"),
        pytest.param(EnrollmentToken.generate().public_key[:31], id="31 bytes"),
        pytest.param(EnrollmentToken.generate().public_key + b"\x00", id="33 bytes"),
    ],
)
def test_a_token_is_made_for_no_key_that_anybody_can_sign_with(key: bytes) -> None:
    """Points of small order hold for signatures that nobody made; the keys of real tokens are accepted."""
    with pytest.raises(InvalidInput) as refused:
        verify_token_public_key(key)
    assert refused.value.reason is Reason.REQUEST_INVALID
    assert [violation.field for violation in refused.value.violations] == ["token_public_key"]
    verify_token_public_key(EnrollmentToken.generate().public_key)

"""What every CertificateAuthority keeps: the embedded one and the real step-ca, by the same tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_ca_broker.adapters.embedded_ca import EmbeddedCa
from mosaic_ca_broker.adapters.signing_claims import signing_claims
from mosaic_ca_broker.adapters.step_ca import StepCa
from mosaic_common.clock import SystemClock
from mosaic_common.crl import RevocationList, verify_revocation_list
from mosaic_common.errors import CA_MAY_HAVE_SIGNED, CaRefused
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID, encode_uuid
from mosaic_common.x509 import draw_serial

from tests.support.orders import SigningOrder
from tests.support.stepca import StepCaServer, running_step_ca


@dataclass(frozen=True, slots=True)
class Subject:
    """One adapter under test.

    Attributes:
        reopen: puts a new process, or what comes closest to it, on the same state, and returns its adapter.
    """

    authority: EmbeddedCa | StepCa
    root_pem: bytes
    reopen: Callable[[], EmbeddedCa | StepCa]

    async def redeem(self, order: SigningOrder, claims: dict[str, Any]) -> list[bytes]:
        """Order with these claims, past everything that the broker itself would refuse."""
        not_after = order.warrant.not_after
        if isinstance(self.authority, StepCa):
            return await self.authority.redeem(claims, order.csr.der, not_after=not_after.strftime("%Y-%m-%dT%H:%M:%SZ"))
        return await self.authority.redeem(claims, order.csr.der, not_after=not_after)


@pytest.fixture(scope="module")
def step_ca_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepCaServer]:
    with running_step_ca(tmp_path_factory.mktemp("contract") / "step-ca") as server:
        yield server


@asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[Subject]:
    embedded_ca_folder.init(directory, now=datetime.now(UTC))

    def reopen() -> EmbeddedCa:
        return EmbeddedCa.open(directory, environment="dev", clock=SystemClock())

    yield Subject(reopen(), (directory / "root.pem").read_bytes(), reopen)


@asynccontextmanager
async def step_ca(server: StepCaServer) -> AsyncIterator[Subject]:
    def kill_and_start() -> StepCa:
        server.kill()
        server.start()
        return authority

    authority = server.client()
    yield Subject(authority, server.root.pem, reopen=kill_and_start)
    await authority.aclose()


@pytest.fixture(params=["embedded", pytest.param("step-ca", marks=pytest.mark.stepca)])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    opened = embedded(tmp_path / "ca") if request.param == "embedded" else step_ca(request.getfixturevalue("step_ca_server"))
    async with opened as each:
        yield each


async def test_signs_exactly_what_is_ordered(subject: Subject) -> None:
    """The chain links to the root and holds the ordered key, name, serial, ids, expiry and the exact profile."""
    order = SigningOrder.make()
    chain = list(await subject.authority.sign(order.csr, order.warrant))
    issued = order.verify(chain, subject.root_pem)
    assert (issued.serial, issued.not_after) == (order.warrant.serial, order.warrant.not_after)
    assert len(chain) == 2


async def test_encodes_both_ids_as_utf8_strings(subject: Subject) -> None:
    """Each OID holds the 38 bytes that encode_uuid makes: another encoding would be another certificate to another parser."""
    order = SigningOrder.make()
    leaf = x509.load_der_x509_certificate((await subject.authority.sign(order.csr, order.warrant))[0])
    unknown = [each for each in leaf.extensions if isinstance(each.value, x509.UnrecognizedExtension)]
    assert {each.oid.dotted_string: each.value.public_bytes() for each in unknown} == {
        GRANT_ID_OID: encode_uuid(order.warrant.grant_id),
        SUBJECT_USER_ID_OID: encode_uuid(order.warrant.subject_user_id),
    }


@pytest.mark.parametrize("serial", [pytest.param(2**128 - 1, id="largest"), pytest.param(1, id="smallest")])
async def test_honours_every_serial_that_grants_can_draw(subject: Subject, serial: int) -> None:
    """The serial is known to grants before anything is signed, so that it can be revoked whatever becomes of the answer."""
    order = SigningOrder.make(serial=serial)
    chain = list(await subject.authority.sign(order.csr, order.warrant))
    assert order.verify(chain, subject.root_pem).serial == serial


async def test_signs_for_the_longest_lifetime_that_the_system_issues(subject: Subject) -> None:
    """30 days from the moment of the order are within what the authority allows."""
    order = SigningOrder.make()
    order = replace(order, warrant=replace(order.warrant, not_after=order.warrant.issued_at + timedelta(days=30)))
    order.verify(list(await subject.authority.sign(order.csr, order.warrant)), subject.root_pem)


async def test_honours_a_warrant_once(subject: Subject) -> None:
    """The second use of a warrant is refused as one that may have signed, because the first one may have."""
    order = SigningOrder.make()
    await subject.authority.sign(order.csr, order.warrant)
    with pytest.raises(CaRefused) as refusal:
        await subject.authority.sign(order.csr, order.warrant)
    assert refusal.value.metadata[CA_MAY_HAVE_SIGNED] == "true"


async def test_honours_a_warrant_once_whatever_it_orders(subject: Subject) -> None:
    """The jti alone is the key: a warrant for another CSR under a spent jti is refused too."""
    order = SigningOrder.make()
    await subject.authority.sign(order.csr, order.warrant)
    other = SigningOrder.make(jti=order.warrant.jti)
    with pytest.raises(CaRefused):
        await subject.authority.sign(other.csr, other.warrant)


async def test_remembers_spent_warrants_across_a_crash(subject: Subject, tmp_path: Path) -> None:
    """A warrant stays spent after the authority was killed and started again."""
    order = SigningOrder.make()
    await subject.authority.sign(order.csr, order.warrant)
    await asyncio.to_thread(subject.reopen)
    authority = subject.authority
    if isinstance(authority, EmbeddedCa):
        authority = EmbeddedCa.open(tmp_path / "ca", environment="dev", clock=SystemClock())
    with pytest.raises(CaRefused):
        await authority.sign(order.csr, order.warrant)


async def test_signs_once_for_a_warrant_that_races_itself(subject: Subject) -> None:
    """Of eight replicas that present one warrant at the same time, exactly one gets a certificate."""
    order = SigningOrder.make()
    answers = await asyncio.gather(*(subject.authority.sign(order.csr, order.warrant) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(each, list) for each in answers) == 1
    assert sum(isinstance(each, CaRefused) for each in answers) == 7


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda claims: claims.pop(name) and None


def changed(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda claims: claims.update({name: value})


UUID_CLAIMS = ("mosaic_grant_id", "mosaic_subject_user_id")


@pytest.mark.parametrize(
    "mutate",
    [
        *(pytest.param(without(name), id=f"no {name}") for name in (*UUID_CLAIMS, "mosaic_serial")),
        *(pytest.param(changed(name, ""), id=f"empty {name}") for name in (*UUID_CLAIMS, "mosaic_serial")),
        *(pytest.param(changed(name, None), id=f"null {name}") for name in (*UUID_CLAIMS, "mosaic_serial")),
        *(pytest.param(changed(name, "notauuid"), id=f"{name} is any text") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, str(uuid4()).upper().replace("4", "A")), id=f"{name} in upper case") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, f"{uuid4()}\n"), id=f"{name} with a line break") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, f"utf8:{uuid4()}"), id=f"{name} with a prefix of the template's own") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, uuid4().hex), id=f"{name} without hyphens") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, str(uuid4())[:-1]), id=f"{name} of 35 characters") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, f"{uuid4()}0"), id=f"{name} of 37 characters") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, f" {uuid4()}"), id=f"{name} after a blank") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, f"{uuid4()}\0"), id=f"{name} before a NUL") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, [str(uuid4())]), id=f"{name} is a list") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, {"id": str(uuid4())}), id=f"{name} is an object") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, 7), id=f"{name} is a number") for name in UUID_CLAIMS),
        *(pytest.param(changed(name, True), id=f"{name} is true") for name in UUID_CLAIMS),
        pytest.param(changed("mosaic_serial", 12345), id="serial is a JSON number: 128 bits would be rounded"),
        pytest.param(changed("mosaic_serial", "0"), id="serial zero"),
        pytest.param(changed("mosaic_serial", "-1"), id="serial negative"),
        pytest.param(changed("mosaic_serial", "0x10"), id="serial in hexadecimal"),
        pytest.param(changed("mosaic_serial", "9" * 40), id="serial of 40 digits"),
        pytest.param(changed("mosaic_serial", "01"), id="serial with a leading zero"),
        pytest.param(changed("mosaic_serial", "1e3"), id="serial with an exponent"),
        pytest.param(changed("mosaic_serial", "1\n"), id="serial with a line break"),
        pytest.param(changed("mosaic_serial", "٣"), id="serial in other digits"),
        pytest.param(changed("mosaic_serial", '1", "isCA": "true'), id="serial that would write into the template"),
        pytest.param(changed("sub", "another"), id="another common name than the CSR's"),
        pytest.param(changed("cnf", {"x5rt#S256": "A" * 43}), id="confirmation of another CSR"),
    ],
)
async def test_refuses_an_order_that_does_not_say_exactly_who(subject: Subject, mutate: Callable[[dict[str, Any]], None]) -> None:
    """No order yields a certificate without both ids and the serial; such a refusal cannot have signed."""
    order = SigningOrder.make()
    claims = signing_claims(order.csr, order.warrant)
    mutate(claims)
    with pytest.raises(CaRefused) as refusal:
        await subject.redeem(order, claims)
    assert refusal.value.metadata[CA_MAY_HAVE_SIGNED] == "false"
    assert refusal.value.remedy


@pytest.mark.parametrize(
    "not_after",
    [
        pytest.param(timedelta(days=31), id="longer than the system issues"),
        pytest.param(timedelta(days=-1), id="over before it began"),
    ],
)
async def test_refuses_a_lifetime_that_the_system_does_not_issue(subject: Subject, not_after: timedelta) -> None:
    """The authority keeps the maximum for itself, and such a refusal cannot have signed."""
    order = SigningOrder.make()
    warrant = replace(order.warrant, not_after=order.warrant.issued_at + not_after)
    with pytest.raises(CaRefused) as refusal:
        await subject.authority.sign(order.csr, warrant)
    assert refusal.value.metadata[CA_MAY_HAVE_SIGNED] == "false"


async def test_spends_the_warrant_that_it_refuses(subject: Subject) -> None:
    """A refused warrant is not a second chance: a retry takes a new one."""
    order = SigningOrder.make()
    with pytest.raises(CaRefused):
        await subject.authority.sign(order.csr, replace(order.warrant, not_after=order.warrant.issued_at + timedelta(days=31)))
    with pytest.raises(CaRefused):
        await subject.authority.sign(order.csr, order.warrant)


async def test_ignores_what_the_csr_asks_for(subject: Subject) -> None:
    """A CSR that asks for names, a CA and other ids gets the ordered profile and nothing of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName("ca.example.com"), x509.UniformResourceIdentifier("mosaic://work/svc/grants")]
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "home")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=3), critical=True)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(GRANT_ID_OID), encode_uuid(uuid4())), critical=False)
        .sign(key, hashes.SHA256())
    )
    order = SigningOrder.make(csr_der=greedy.public_bytes(Encoding.DER))
    order.verify(list(await subject.authority.sign(order.csr, order.warrant)), subject.root_pem)


async def published(authority: EmbeddedCa | StepCa, root_pem: bytes) -> RevocationList:
    """What the broker believes of the authority's list, and grants after it."""
    unverified = await authority.revocation_list()
    return verify_revocation_list(unverified.crl_der, unverified.chain_der, root_pem=root_pem, now=datetime.now(UTC))


async def test_lists_what_it_signed_and_what_it_did_not(subject: Subject) -> None:
    """The serial of an attempt with an unknown end can be revoked, and again: twice is done. The list shows both at once."""
    order, never_signed = SigningOrder.make(), SigningOrder.make()
    await subject.authority.sign(order.csr, order.warrant)
    revoked = {order.warrant.serial, never_signed.warrant.serial}
    before = await published(subject.authority, subject.root_pem)
    assert not before.serials & revoked
    for serial in revoked:
        await subject.authority.revoke(serial, reason="token replaced")
        await subject.authority.revoke(serial, reason="token replaced")
    after = await published(subject.authority, subject.root_pem)
    assert after.serials == before.serials | revoked
    assert after.number > before.number


@pytest.mark.parametrize("serial", [pytest.param(2**128 - 1, id="largest"), pytest.param(1, id="smallest")])
async def test_lists_every_serial_that_grants_can_draw(subject: Subject, serial: int) -> None:
    """No serial is too large or too small to be revoked."""
    await subject.authority.revoke(serial, reason="")
    assert serial in (await published(subject.authority, subject.root_pem)).serials


async def test_never_counts_its_lists_backwards(subject: Subject) -> None:
    """Over revocations and crashes the number only grows and no serial is lost: grants takes a lower number for a replay."""
    authority, serials, numbers = subject.authority, set[int](), []
    for _ in range(3):
        serials.add(serial := draw_serial())
        await authority.revoke(serial, reason="")
        numbers.append((await published(authority, subject.root_pem)).number)
        authority = await asyncio.to_thread(subject.reopen)
        after_the_crash = await published(authority, subject.root_pem)
        numbers.append(after_the_crash.number)
        assert serials <= after_the_crash.serials
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[2] < numbers[4]


async def test_gives_one_number_to_one_list(subject: Subject) -> None:
    """Revocations and readers that race each other never show two lists under the same number."""
    lists = dict[int, frozenset[int]]()

    async def revoke_and_read() -> None:
        await subject.authority.revoke(draw_serial(), reason="")
        shown = await published(subject.authority, subject.root_pem)
        assert lists.setdefault(shown.number, shown.serials) == shown.serials

    await asyncio.gather(*(revoke_and_read() for _ in range(8)))
    in_order = [lists[number] for number in sorted(lists)]
    assert all(earlier <= later for earlier, later in pairwise(in_order))


async def test_accepts_any_words_as_a_reason(subject: Subject) -> None:
    """Why something is revoked never keeps it from being revoked."""
    await subject.authority.revoke(draw_serial(), reason='"\n\x00\u202e' + "x" * 5_000)


async def test_answers_a_ping(subject: Subject) -> None:
    """A healthy authority lets the broker's health say so."""
    await subject.authority.ping()

"""`enroll` and `peer add` against a serving gateway that tells the truth, lies, or breaks off."""

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mosaic.enrollment.v1.enrollment_pb2 import EnrollRequest, EnrollResponse
from mosaic.grants.v1.grants_pb2 import (
    ActivateConnectionRequest,
    ActivateConnectionResponse,
    PrepareConnectionResponse,
)
from mosaic.grants.v1.types_pb2 import (
    CERTIFICATE_STATE_ACTIVE,
    PEER_DIRECTION_OUTBOUND,
    PEER_STATE_ACTIVE,
    PEER_STATE_SUSPENDED,
    Peer,
)
from mosaic_cli.app import app
from mosaic_cli.dialing import Address, Trust, enrollment_channel, establish_trust, verify_endpoint
from mosaic_cli.failures import CommandFailed
from mosaic_cli.redemption import Request, Waiting, redeem
from mosaic_common.clock import SystemClock
from mosaic_common.errors import MosaicError, Reason
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND
from mosaic_common.keys import spki_sha256
from mosaic_common.tokens import EnrollmentToken, token_id, verify_enroll_proof
from mosaic_common.x509 import Ordered, make_csr, verify_csr
from typer.testing import CliRunner, Result

from tests.support.authorities import Lie, LyingAuthority, new_key, with_not_after
from tests.support.clock import FakeClock
from tests.support.scripted_gateway import ScriptedGateway

GRANT_ID, SUBJECT = uuid4(), uuid4()
FILES = {"key.pem", "certificate.pem", "chain.pem", "trust-bundle.pem", "endpoint"}
BUSY = MosaicError(Reason.ENROLLMENT_IN_PROGRESS, "This redemption is under way.", retry_after=timedelta(seconds=7))


@dataclass
class Work:
    """The serving gateway, and an authority that signs what its script answers."""

    gateway: ScriptedGateway
    authority: LyingAuthority
    token: EnrollmentToken

    @property
    def url(self) -> str:
        return self.gateway.offer().with_token(self.token).format()

    def certify(self, request: EnrollRequest, *lies: Lie, **changes: Any) -> EnrollResponse:
        now = datetime.now(UTC).replace(microsecond=0)
        csr = verify_csr(request.csr_der, common_name="home")
        ordered = Ordered("home", GRANT_ID, SUBJECT, 7, csr.spki_sha256, now + timedelta(days=30), now)
        leaf, *chain = self.authority.sign(csr.public_key, ordered, *lies)
        answer = EnrollResponse(
            certificate_der=leaf,
            chain_der=chain,
            grant_id=str(GRANT_ID),
            subject_user_id=str(SUBJECT),
            gateway="work",
            federation_endpoint=self.gateway.federation_endpoint,
        )
        answer.MergeFrom(EnrollResponse(**changes))
        return answer


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with ScriptedGateway.start(tmp_path / "work", "work") as gateway:
        served = Work(gateway, LyingAuthority.make(datetime.now(UTC).replace(microsecond=0)), EnrollmentToken.generate())
        gateway.answer("Enroll", served.certify)
        yield served


def enroll(work: Work, out: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["federation", "enroll", "--out", str(out), *options], input=f"{work.url}\n")


# ── enroll ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_enroll_writes_what_a_client_needs_and_nothing_else(work: Work, tmp_path: Path) -> None:
    """Key, leaf, chain, the pinned root and the endpoint, for their owner's eyes; the key is the certificate's."""
    out = tmp_path / "out"
    result = enroll(work, out, "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in out.iterdir()} == FILES
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in out.iterdir())
    key = load_pem_private_key((out / "key.pem").read_bytes(), None)
    leaf = x509.load_pem_x509_certificate((out / "certificate.pem").read_bytes())
    assert leaf.public_key() == key.public_key()
    assert len(x509.load_pem_x509_certificates((out / "chain.pem").read_bytes())) == 2
    assert (out / "trust-bundle.pem").read_bytes() == work.gateway.pki.root.certificate.read_bytes()
    assert (out / "endpoint").read_text() == f"{work.gateway.federation_endpoint}\n"
    certificate = json.loads(result.stdout)["certificate"]
    assert certificate["oids"] == {"1.3.6.1.4.1.99999.1": str(GRANT_ID), "1.3.6.1.4.1.99999.2": str(SUBJECT)}


def test_the_token_proves_itself_and_never_travels(work: Work, tmp_path: Path) -> None:
    """The request holds the token's public key and a proof over CSR, redemption id and pin; no byte of it is the seed."""
    enroll(work, tmp_path / "out")
    asked = work.gateway.asked("Enroll")
    pin = work.gateway.offer().pin
    verify_enroll_proof(asked.token_public_key, asked.csr_der, UUID(asked.redemption_id), pin, asked.proof)
    assert work.token.seed not in asked.SerializeToString()


def test_a_rerun_continues_with_the_same_request(work: Work, tmp_path: Path) -> None:
    """A redemption that broke off is repeated byte for byte, so that the certificate it may have cost is not lost."""
    out = tmp_path / "out"
    work.gateway.answer("Enroll", MosaicError(Reason.CA_REFUSED, "The authority refused."), work.certify)
    broken = enroll(work, out)
    assert (broken.exit_code, "CA_REFUSED" in broken.stderr) == (1, True)
    assert {path.name for path in out.iterdir()} == {"redemption", "request.csr", "key.pem"}
    assert enroll(work, out).exit_code == 0
    first, second = work.gateway.all_asked("Enroll")
    assert (first.csr_der, first.redemption_id) == (second.csr_der, second.redemption_id)
    assert {path.name for path in out.iterdir()} == FILES


def test_nothing_is_overwritten(work: Work, tmp_path: Path) -> None:
    """A folder that holds a key or another URL's redemption is refused before anybody is asked."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "key.pem").write_text("mine")
    refused = enroll(work, out)
    assert (refused.exit_code, "ALREADY_ENROLLED" in refused.stderr) == (1, True)
    assert (out / "key.pem").read_text() == "mine"
    assert work.gateway.received == []


def test_a_folder_of_another_redemption_is_refused(work: Work, tmp_path: Path) -> None:
    """Continuing with another token would spend it for a key that is already promised elsewhere."""
    work.gateway.answer("Enroll", MosaicError(Reason.CA_REFUSED, "The authority refused."))
    enroll(work, tmp_path / "out")
    other = replace(work, token=EnrollmentToken.generate())
    assert "another URL" in enroll(other, tmp_path / "out").stderr
    assert len(work.gateway.received) == 1


def test_another_listener_than_the_pinned_one_is_asked_nothing(work: Work, tmp_path: Path) -> None:
    """The pin is the only trust there is: without its root in the presented chain, no request is made."""
    with ScriptedGateway.start(tmp_path / "imposter", "work") as imposter:
        imposter.answer("Enroll", work.certify)
        offer = replace(work.gateway.offer(), port=imposter.offer().port)
        url = offer.with_token(work.token).format()
        result = CliRunner().invoke(app, ["federation", "enroll", "--out", str(tmp_path / "out"), "-"], input=url)
        assert (result.exit_code, imposter.received) == (1, [])
    assert "PIN_MISMATCH" in result.stderr


def test_a_url_in_the_arguments_is_warned_about(work: Work, tmp_path: Path) -> None:
    """It works, and says who else has seen it."""
    result = CliRunner().invoke(app, ["federation", "enroll", work.url, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "process list" in result.stderr
    assert work.token.encode() not in result.stderr


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"gateway": "other"}, "GATEWAY_MISMATCH", id="another gateway answers"),
        pytest.param({"grant_id": str(uuid4())}, "CA_LIED", id="grant id is not the certificate's"),
        pytest.param({"subject_user_id": str(uuid4())}, "CA_LIED", id="subject is not the certificate's"),
        pytest.param({"grant_id": "x"}, "GATEWAY_MISMATCH", id="grant id is no UUID"),
        pytest.param({"certificate_der": b"x"}, "CA_LIED", id="no certificate"),
        pytest.param({"federation_endpoint": "work"}, "ENDPOINT_MALFORMED", id="endpoint without a port"),
        pytest.param({"federation_endpoint": "elsewhere.example:7443"}, "ENDPOINT_HOST_DIFFERS", id="endpoint on another host"),
    ],
)
def test_an_answer_that_does_not_hold_leaves_no_certificate(
    work: Work, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    """Whatever the serving gateway claims beyond the certificate itself has to agree with it and with the URL."""
    work.gateway.answer("Enroll", lambda request: work.certify(request, **changes))
    result = enroll(work, tmp_path / "out")
    assert (result.exit_code, reason in result.stderr) == (1, True), result.stderr
    assert not (tmp_path / "out" / "certificate.pem").exists()


def test_a_clock_that_is_off_is_named(work: Work, tmp_path: Path) -> None:
    """A certificate that has already expired here is more often a clock than a lie, so both times are told."""
    expired = with_not_after(datetime.now(UTC).replace(microsecond=0) - timedelta(days=3))
    work.gateway.answer("Enroll", lambda request: work.certify(request, expired))
    result = enroll(work, tmp_path / "out")
    assert result.exit_code == 1
    assert "CLOCK" in result.stderr
    assert "3 days later" in result.stderr


# ── peer add ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ScriptedGateway]:
    """The querying gateway: its grants prepares and activates."""
    with ScriptedGateway.start(tmp_path / "home", "home") as gateway:
        peer = Peer(
            id=str(uuid4()), name="work", direction=PEER_DIRECTION_OUTBOUND, state=PEER_STATE_ACTIVE, local_user_id=str(uuid4())
        )
        csr = make_csr(new_key(), "home")
        gateway.answer("PrepareConnection", PrepareConnectionResponse(peer=peer, csr_der=csr, redemption_id=str(uuid4())))
        gateway.answer("ActivateConnection", lambda request: ActivateConnectionResponse(peer=activated(peer, request)))
        yield gateway


def activated(peer: Peer, request: ActivateConnectionRequest) -> Peer:
    """The connection as its gateway records and tells it."""
    leaf = x509.load_der_x509_certificate(request.certificate_der)
    recorded = Peer(remote_grant_id=request.grant_id, remote_subject_user_id=request.subject_user_id)
    recorded.MergeFrom(peer)
    recorded.certificates.add(
        fingerprint=leaf.fingerprint(SHA256()),
        serial=str(leaf.serial_number),
        not_before_us=int(leaf.not_valid_before_utc.timestamp() * 1_000_000),
        not_after_us=int(leaf.not_valid_after_utc.timestamp() * 1_000_000),
        state=CERTIFICATE_STATE_ACTIVE,
    )
    return recorded


def add_peer(home: ScriptedGateway, work: Work, *options: str) -> Result:
    arguments = ["federation", "peer", "add", "--user", "mira@home.example", *options]
    return CliRunner().invoke(
        app, arguments, input=f"{work.url}\n", env={**home.environment, "MOSAIC_TOKEN": None, "MOSAIC_CONTEXT": None}
    )


def test_peer_add_connects_two_gateways(home: ScriptedGateway, work: Work) -> None:
    """Prepared here, redeemed there, verified, activated here with the pinned root as the connection's only trust."""
    result = add_peer(home, work, "--name", "office", "-o", "json")
    assert result.exit_code == 0, result.stderr
    prepared, activated, enrolled = home.asked("PrepareConnection"), home.asked("ActivateConnection"), work.gateway.asked("Enroll")
    assert (prepared.user, prepared.name, prepared.remote_gateway) == ("mira@home.example", "office", "work")
    assert (prepared.common_name, prepared.enrollment_address) == ("home", work.gateway.offer().address)
    assert (prepared.token_id, prepared.reenroll) == (token_id(work.token.public_key), False)
    root = x509.load_pem_x509_certificate(work.gateway.pki.root.certificate.read_bytes())
    assert x509.load_der_x509_certificate(activated.pinned_root_der) == root
    assert (activated.grant_id, activated.federation_endpoint) == (str(GRANT_ID), work.gateway.federation_endpoint)
    assert not activated.endpoint_host_confirmed
    assert work.token.seed not in b"".join(request.SerializeToString() for request in (prepared, activated, enrolled))
    assert json.loads(result.stdout)["certificate"]["subject_user_id"] == str(SUBJECT)


def test_peer_add_shows_the_certificate_with_both_oids(home: ScriptedGateway, work: Work) -> None:
    """What was enrolled can be compared by two people on the phone: ids, fingerprint, dates."""
    shown = add_peer(home, work).stdout
    for told in (str(GRANT_ID), str(SUBJECT), "OID 1.3.6.1.4.1.99999.1", "fingerprint", "in 29 days"):
        assert told in shown


def test_a_rerun_after_success_tells_the_same(home: ScriptedGateway, work: Work) -> None:
    """A command that missed its last answer is run again: same output, exit 0, and the other gateway is not asked any more."""
    first = add_peer(home, work, "-o", "json")
    peer = activated(home.answered("PrepareConnection").peer, home.asked("ActivateConnection"))
    home.answer("PrepareConnection", PrepareConnectionResponse(peer=peer, already_active=True))
    again = add_peer(home, work, "-o", "json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, json.loads(first.stdout))
    assert "nothing was left to do" in again.stderr
    assert "Next: mosaic federation query" in again.stderr
    peer.state = PEER_STATE_SUSPENDED
    home.answer("PrepareConnection", PrepareConnectionResponse(peer=peer, already_active=True))
    assert f"The connection is suspended: `mosaic federation peer resume {peer.id}`" in add_peer(home, work).stderr
    assert len(work.gateway.received) == 1


def test_a_lost_key_is_asked_to_be_replaced(home: ScriptedGateway, work: Work) -> None:
    """--reenroll is for our own gateway, which then makes a new key for the connection of this name."""
    assert add_peer(home, work, "--name", "office", "--reenroll").exit_code == 0
    asked = home.asked("PrepareConnection")
    assert (asked.name, asked.reenroll) == ("office", True)


def test_a_certificate_that_our_gateway_did_not_get_is_not_lost(home: ScriptedGateway, work: Work) -> None:
    """What fails after the redemption says that the same command continues, and it does: with the same request."""
    home.answer("ActivateConnection", MosaicError(Reason.DEPENDENCY_UNAVAILABLE, "The database is away."))
    failed = add_peer(home, work)
    assert failed.exit_code == 1
    assert "The certificate was issued already: until the URL expires, the same command" in failed.stderr
    home.answer("ActivateConnection", lambda request: ActivateConnectionResponse(peer=activated(Peer(name="work"), request)))
    assert add_peer(home, work).exit_code == 0
    first, second = work.gateway.all_asked("Enroll")
    assert first == second


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param({"gateway": "other"}, "Nothing of the answer was used.", id="another gateway"),
        pytest.param({"grant_id": "x"}, "Nothing of the answer was used.", id="no UUID"),
        pytest.param({"federation_endpoint": "work"}, "Tell the other operator", id="no endpoint"),
    ],
)
def test_every_refusal_says_what_to_do(home: ScriptedGateway, work: Work, answer: dict[str, Any], told: str) -> None:
    """A sentence and a remedy, whatever is wrong with the answer."""
    work.gateway.answer("Enroll", lambda request: work.certify(request, **answer))
    error = json.loads(add_peer(home, work, "-o", "json").stdout)["error"]
    assert told in error["remediation"]


def test_a_name_that_is_taken_spends_no_token(home: ScriptedGateway, work: Work) -> None:
    """Our own gateway refuses first; the serving one hears nothing."""
    home.answer("PrepareConnection", MosaicError(Reason.NAME_TAKEN, "There is a connection work.", remedy="Give --name."))
    result = add_peer(home, work)
    assert (result.exit_code, "NAME_TAKEN" in result.stderr, work.gateway.received) == (1, True, [])


def test_an_endpoint_of_another_service_is_never_activated(home: ScriptedGateway, work: Work) -> None:
    """Under the same root, but not the inbound edge: the connection stays pending."""
    work.gateway.present_at_endpoint(EDGE_OUTBOUND)
    result = add_peer(home, work)
    assert (result.exit_code, "ENDPOINT_NOT_VERIFIED" in result.stderr) == (1, True)
    assert home.all_asked("ActivateConnection") == []


def test_an_endpoint_on_another_host_has_to_be_confirmed(home: ScriptedGateway, work: Work) -> None:
    """Refused unless the operator says so, and grants is told that somebody did."""
    elsewhere = f"localhost:{work.gateway.ports[EDGE_INBOUND]}"
    work.gateway.answer("Enroll", lambda request: work.certify(request, federation_endpoint=elsewhere))
    assert "ENDPOINT_HOST_DIFFERS" in add_peer(home, work).stderr
    assert add_peer(home, work, "--accept-endpoint-host").exit_code == 0
    assert home.asked("ActivateConnection").endpoint_host_confirmed


# ── dialing ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_pinned_root_alone_is_believed(work: Work) -> None:
    """Of the presented chain only the certificate with the pinned hash becomes trust, in the words of its own bytes."""
    trust = establish_trust(work.gateway.offer(), datetime.now(UTC))
    assert trust.roots_pem == work.gateway.pki.root.certificate.read_bytes()
    verify_endpoint(Address.parse(work.gateway.federation_endpoint), trust)


@pytest.mark.parametrize(("off_by", "told"), [(timedelta(days=-2), "earlier"), (timedelta(days=60), "later")])
def test_a_listener_out_of_date_by_this_clock_is_a_clock_problem(work: Work, off_by: timedelta, told: str) -> None:
    """Before TLS would say no more than that verification failed, both times are compared in words."""
    with pytest.raises(CommandFailed, match=f"this machine's clock says .* {told}") as failed:
        establish_trust(work.gateway.offer(), datetime.now(UTC) + off_by)
    assert failed.value.reason == "CLOCK"


def test_an_endpoint_out_of_date_by_this_clock_is_a_clock_problem(tmp_path: Path) -> None:
    """TLS says that a certificate has expired; the time that it was held against is told with it."""
    with ScriptedGateway.start(tmp_path, "work", made_at=FakeClock(datetime.now(UTC) - timedelta(days=60))) as old:
        trust = Trust("work", old.pki.root.certificate.read_bytes(), pinned_root_der=b"pinned")
        with pytest.raises(CommandFailed, match="by this clock: certificate has expired") as failed:
            verify_endpoint(Address.parse(old.federation_endpoint), trust)
    assert failed.value.reason == "CLOCK"


def test_without_a_pin_the_host_name_has_to_be_proved(work: Work) -> None:
    """A publicly trusted listener is verified like any web server: by its host name, not by an internal one."""
    root = work.gateway.pki.root.certificate.read_bytes()
    verify_endpoint(Address.parse(work.gateway.federation_endpoint), Trust("work", root, None))
    other = Address("127.0.0.2", work.gateway.ports[EDGE_INBOUND])
    with pytest.raises(CommandFailed, match=r"127\.0\.0\.2"):
        verify_endpoint(other, Trust("work", root, None))


def test_nothing_at_the_address_is_said_as_such(work: Work) -> None:
    """Refused connections name the address and what to look at."""
    with pytest.raises(CommandFailed, match="nothing listens there"):
        establish_trust(replace(work.gateway.offer(), port=1), datetime.now(UTC))


# ── redemption ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_busy_gateway_is_asked_again_when_it_says(work: Work) -> None:
    """RetryInfo is obeyed, the request stays the same, and why one waits is told."""
    work.gateway.answer("Enroll", BUSY, MosaicError(Reason.CA_UNREACHABLE, "The authority is away."), work.certify)
    slept, told = _redeem(work)
    assert slept == [7.0, 2.0]
    assert all("a rerun continues" in each for each in told)
    assert len({request.SerializeToString(deterministic=True) for request in work.gateway.all_asked("Enroll")}) == 1


def test_patience_has_an_end(work: Work) -> None:
    """Longer than the lease of an attempt that died nobody waits: the answer itself is the error."""
    work.gateway.answer("Enroll", BUSY)
    with pytest.raises(MosaicError, match="under way") as refused:
        _redeem(work)
    assert refused.value.reason is Reason.ENROLLMENT_IN_PROGRESS
    assert len(work.gateway.received) == 150 // 7 + 1


def test_what_does_not_come_back_is_not_waited_for(work: Work) -> None:
    """A gateway that says it lacks a dependency gets a few tries, like one that says nothing; the wait is told once."""
    work.gateway.answer("Enroll", MosaicError(Reason.DEPENDENCY_UNAVAILABLE, "grants cannot be reached."))
    told: list[str] = []
    with pytest.raises(MosaicError, match="cannot be reached"):
        _redeem(work, told)
    assert len(work.gateway.received) == 5
    assert len(told) == 1


@pytest.mark.parametrize("reason", [Reason.ENROLLMENT_TOKEN_USED, Reason.GRANT_STATE_CHANGED, Reason.CA_REFUSED])
def test_a_final_answer_is_not_asked_for_twice(work: Work, reason: Reason) -> None:
    """A used token does not become free by asking again."""
    work.gateway.answer("Enroll", MosaicError(reason, "Gone."))
    with pytest.raises(MosaicError, match="Gone"):
        _redeem(work)
    assert len(work.gateway.received) == 1


def _redeem(work: Work, told: list[str] | None = None) -> tuple[list[float], list[str]]:
    slept: list[float] = []
    told = [] if told is None else told
    offer = work.gateway.offer().with_token(work.token)
    trust = establish_trust(offer, datetime.now(UTC))
    key = new_key()
    request = Request(make_csr(key, "home"), uuid4())
    with enrollment_channel(offer, trust) as channel:
        enrolled = redeem(channel, offer, request, clock=SystemClock(), waiting=Waiting(told.append, sleep=slept.append))
    assert enrolled.certificate.spki_sha256 == spki_sha256(key.public_key())
    return slept, told

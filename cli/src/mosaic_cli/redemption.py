"""Redeeming an enrollment token: the same request as often as it takes, and nothing of the answer believed unseen."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

# First: it sets what grpc reads when it is imported.
import mosaic_common.rpc  # noqa: F401  isort: skip
import grpc
from cryptography import x509
from mosaic.enrollment.v1.enrollment_pb2 import EnrollRequest, EnrollResponse
from mosaic.enrollment.v1.enrollment_pb2_grpc import EnrollmentServiceStub
from mosaic_common.clock import Clock
from mosaic_common.der import UNPARSABLE
from mosaic_common.errors import Code, MosaicError
from mosaic_common.tokens import EnrollmentUrl
from mosaic_common.x509 import Expected, IssuedCertificate, verify_csr, verify_received

from mosaic_cli.clocks import verify_dates
from mosaic_cli.connection import answer_of
from mosaic_cli.dialing import Address
from mosaic_cli.failures import CommandFailed, LocalReason

PATIENCE: Final = timedelta(seconds=150)
"""A little more than the lease of an attempt that died: only then is the token free for this one again."""
_PAUSE: Final = timedelta(seconds=2)
_AWAY_ATTEMPTS: Final = 5
_AWAY: Final = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


@dataclass(frozen=True, slots=True)
class Request:
    """One redemption. A rerun repeats it byte for byte, and gets the certificate that the first run may have missed."""

    csr_der: bytes
    redemption_id: UUID


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What the other gateway gave us, verified as far as it can be from here."""

    certificate: IssuedCertificate
    gateway: str
    endpoint: Address


class Waiting:
    """How long, and how, to wait between attempts."""

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        patience: timedelta = PATIENCE,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tell = tell
        self._left = patience
        self._away_left = _AWAY_ATTEMPTS
        self._sleep = sleep
        self._told = ""

    def before_retry(self, error: MosaicError | CommandFailed) -> None:
        """Wait as long as the answer asks for. Raises the error itself when it is final or the patience is used up."""
        pause = _retry_pause(error)
        self._away_left -= _is_away(error)
        if pause is None or pause > self._left or not self._away_left:
            raise error
        self._left -= pause
        self._tell_once(f"{error.message} Trying again every {pause.total_seconds():.0f} s; Ctrl-C is safe, a rerun continues.")
        self._sleep(pause.total_seconds())

    def _tell_once(self, line: str) -> None:
        if line != self._told:
            self._tell(line)
        self._told = line


def redeem(channel: grpc.Channel, url: EnrollmentUrl, request: Request, *, clock: Clock, waiting: Waiting) -> Enrolled:
    """Exchange the token for a certificate.

    Raises:
        MosaicError: the other gateway refused.
        CaLied: it answered with something else than a certificate for our key.
        CommandFailed: it cannot be reached, or is another gateway than the URL names.
    """
    enroll = EnrollmentServiceStub(channel).Enroll
    message = EnrollRequest(
        token_public_key=url.token.public_key,
        csr_der=request.csr_der,
        redemption_id=str(request.redemption_id),
        proof=url.token.prove(request.csr_der, request.redemption_id, url.pin),
    )
    while True:
        try:
            answer = answer_of(enroll, message, listener=f"enrollment of {url.gateway} at {url.target}")
            return _verify_answer(answer, url, request, clock)
        except (MosaicError, CommandFailed) as error:
            waiting.before_retry(error)


def _verify_answer(answer: EnrollResponse, url: EnrollmentUrl, request: Request, clock: Clock) -> Enrolled:
    if answer.gateway != url.gateway:
        raise _mismatch(f"The URL is of the gateway {url.gateway!r}, but {answer.gateway[:80]!r} answered.")
    _verify_dates(answer.certificate_der, clock)
    csr = verify_csr(request.csr_der, common_name=url.common_name)
    expected = Expected(
        common_name=url.common_name,
        grant_id=_uuid(answer.grant_id, "grant id"),
        subject_user_id=_uuid(answer.subject_user_id, "subject user id"),
        spki_sha256=csr.spki_sha256,
    )
    certificate = verify_received([answer.certificate_der, *answer.chain_der], expected, now=clock.now())
    return Enrolled(certificate, answer.gateway, Address.parse(answer.federation_endpoint))


def _verify_dates(unverified_der: bytes, clock: Clock) -> None:
    try:
        verify_dates(x509.load_der_x509_certificate(unverified_der), "The new certificate", clock.now())
    except UNPARSABLE:
        return  # what is wrong with it is said when all of it is verified


def _retry_pause(error: MosaicError | CommandFailed) -> timedelta | None:
    if isinstance(error, MosaicError) and error.retry_after is not None:
        return max(error.retry_after, timedelta(seconds=1))
    return _PAUSE if _is_away(error) else None


def _is_away(error: MosaicError | CommandFailed) -> bool:
    """Whether the listener, or something behind it that it needs, does not answer."""
    if isinstance(error, CommandFailed):
        return error.reason is LocalReason.UNREACHABLE
    return error.status.code in _AWAY


def _uuid(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _mismatch(f"The answer's {what} is not a UUID.") from None


def _mismatch(sentence: str) -> CommandFailed:
    return CommandFailed(
        LocalReason.GATEWAY_MISMATCH,
        sentence,
        remedy="Nothing of the answer was used. Ask the other operator what answers at the URL, and for a new one.",
    )

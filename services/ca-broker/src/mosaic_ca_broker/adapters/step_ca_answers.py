"""What step-ca's answers mean. Everything in them is unverified, the status included."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from mosaic_common.errors import CaError

from mosaic_ca_broker.adapters.ca_errors import lied, refused, unreachable

_SENTENCE_MAX: Final = 200
_CHAIN_MAX: Final = 4

# Only these two are given before step-ca signs. Its 401 is one sentence for expired, forged and replayed, and what is replayed
# may have been signed the first time.
_CANNOT_HAVE_SIGNED: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN})

_NOT_STEP_CA: Final = "Check that STEP_CA_URL is step-ca itself, and that nothing in front of it answers in its place."
_READ_THE_LOG: Final = "Read step-ca's log at this time; its database has to be writable and used by one process only."
_DEFECT: Final = "The broker asked for what it must not: report it as a defect, with the request id."
_CHECK_WHO_ASKS: Final = (
    "check the provisioner key, the clocks of broker and step-ca, and that STEP_CA_URL names a host in step-ca's dnsNames."
)
_NO_DATABASE: Final = "step-ca runs without a database: start it with the ca.json of infra/step-ca/init.sh, never with --no-db."

_SIGNING: Final[Mapping[int, str]] = {
    HTTPStatus.BAD_REQUEST: (
        "Compare the provisioner's template with infra/step-ca/federation-leaf.tpl, which init.sh renders again, and the clocks "
        "of broker and step-ca."
    ),
    HTTPStatus.UNAUTHORIZED: f"A warrant is honoured once; if no new one works either, {_CHECK_WHO_ASKS}",
    HTTPStatus.FORBIDDEN: (
        "Compare the claims of provisioner mosaic-fed in ca.json with what infra/step-ca/init.sh writes; where they agree, "
        "report it as a defect of the broker, with the request id."
    ),
    HTTPStatus.INTERNAL_SERVER_ERROR: (
        "Read step-ca's log at this time: its database has to be writable and used by one process only, and its template "
        "infra/step-ca/federation-leaf.tpl."
    ),
}
_REVOKING: Final[Mapping[int, str]] = {
    HTTPStatus.BAD_REQUEST: _DEFECT,
    HTTPStatus.UNAUTHORIZED: f"Every revocation takes a token of its own, so {_CHECK_WHO_ASKS}",
    HTTPStatus.FORBIDDEN: _DEFECT,
    HTTPStatus.NOT_IMPLEMENTED: _NO_DATABASE,
}
_PUBLISHING: Final[Mapping[int, str]] = {
    HTTPStatus.NOT_FOUND: (
        "Let infra/step-ca/init.sh write ca.json, which switches the list on, and check that STEP_CA_URL is step-ca itself."
    ),
    HTTPStatus.NOT_IMPLEMENTED: _NO_DATABASE,
}
# step-ca gives none of these.
_FROM_A_PROXY: Final = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, body bounded and whole."""

    status: int
    body: bytes


def parse_chain(answer: Answer) -> list[bytes]:
    """Return the chain of a 201, DER, leaf first.

    Raises:
        CaRefused, CaUnreachable: every other status.
        CaLied: a 201 without a readable chain.
    """
    if answer.status != HTTPStatus.CREATED:
        raise _error_of(answer, _SIGNING)
    try:
        return _parse_certificates(answer, "certChain")
    except _NoCertificates as error:
        raise lied("step-ca says that it signed and shows no certificate chain.", remedy=_NOT_STEP_CA) from error


def verify_revoked(answer: Answer) -> None:
    """Return when the serial is on the list, by this request or an earlier one.

    Raises:
        CaRefused, CaUnreachable: the revocation is still owed.
    """
    if answer.status == HTTPStatus.BAD_REQUEST and "already revoked" in _sentence(answer):
        return
    if answer.status != HTTPStatus.OK or _parse_object(answer.body).get("status") != "ok":
        raise _error_of(answer, _REVOKING)


def parse_revocation_list(answer: Answer) -> bytes:
    """Return the body of a 200, said to be a CertificateList in DER; raises CaRefused or CaUnreachable for every other status."""
    if answer.status != HTTPStatus.OK:
        raise _error_of(answer, _PUBLISHING)
    return answer.body


def parse_intermediates(answer: Answer) -> tuple[bytes, ...]:
    """Return step-ca's intermediates, DER, its signing one first.

    Raises:
        CaRefused, CaUnreachable: it shows none.
    """
    # 0.29 answers this reading with 201.
    if answer.status not in (HTTPStatus.OK, HTTPStatus.CREATED):
        raise _error_of(answer, _PUBLISHING)
    try:
        return tuple(_parse_certificates(answer, "crts"))
    except _NoCertificates as error:
        raise unreachable("step-ca shows no intermediate certificates.", remedy=_NOT_STEP_CA) from error


def verify_healthy(answer: Answer) -> None:
    """Return when step-ca says that it is well; raises CaUnreachable otherwise."""
    if answer.status != HTTPStatus.OK or _parse_object(answer.body).get("status") != "ok":
        raise unreachable(f"step-ca answers its health check with {answer.status}.", remedy=_READ_THE_LOG)


def make_safe(text: str) -> str:
    """Return at most 200 printable ASCII characters: what goes into a log, ours or step-ca's, may be a stranger's words."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:_SENTENCE_MAX])


def _error_of(answer: Answer, remedies: Mapping[int, str]) -> CaError:
    """Return the typed error of an answer that is no success."""
    status, sentence = answer.status, _sentence(answer)
    said = f"{status}{sentence and f': {sentence}'}"
    if 400 <= status < 500:
        remedy = remedies.get(status, _NOT_STEP_CA)
        return refused(f"step-ca refused with {said}", remedy=remedy, may_have_signed=status not in _CANNOT_HAVE_SIGNED)
    otherwise = _READ_THE_LOG if status >= 500 and status not in _FROM_A_PROXY else _NOT_STEP_CA
    return unreachable(f"step-ca failed with {said}", remedy=remedies.get(status, otherwise))


class _NoCertificates(Exception):
    """The answer holds no list of one to four certificates in PEM."""


def _parse_certificates(answer: Answer, name: str) -> list[bytes]:
    chain = _parse_object(answer.body).get(name)
    if not isinstance(chain, list) or not 1 <= len(chain) <= _CHAIN_MAX:
        raise _NoCertificates
    try:
        return [ssl.PEM_cert_to_DER_cert(pem) for pem in chain]
    except (ValueError, TypeError, AttributeError) as error:
        raise _NoCertificates from error


def _sentence(answer: Answer) -> str:
    """Return step-ca's own words, made safe: it repeats names that a stranger chose."""
    message = _parse_object(answer.body).get("message")
    return make_safe(message) if isinstance(message, str) else ""


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}

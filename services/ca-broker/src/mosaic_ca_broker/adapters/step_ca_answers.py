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
_REMEDIES: Final[Mapping[int, str]] = {
    HTTPStatus.BAD_REQUEST: (
        "Compare the provisioner's template with infra/step-ca/federation-leaf.tpl; infra/step-ca/init.sh renders it again."
    ),
    HTTPStatus.UNAUTHORIZED: (
        "A warrant is honoured once; if no new one works either, check the provisioner key, the clocks of broker and step-ca, "
        "and that STEP_CA_URL names a host in step-ca's dnsNames."
    ),
    HTTPStatus.FORBIDDEN: "Compare the claims of provisioner mosaic-fed in ca.json with what infra/step-ca/init.sh writes.",
    HTTPStatus.NOT_FOUND: "Check that STEP_CA_URL is step-ca itself, without a path.",
}
_REMEDY_OTHERWISE: Final = "Read step-ca's log at this time, and check that nothing in front of it answers in its place."
_REMEDY_FAILED: Final = "Read step-ca's log at this time; its database has to be writable and used by one process only."


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
        raise error_of(answer)
    chain = _parse_object(answer.body).get("certChain")
    if not isinstance(chain, list) or not 1 <= len(chain) <= _CHAIN_MAX:
        raise lied("step-ca says that it signed and sends no certificate chain.", remedy=_REMEDY_OTHERWISE)
    try:
        return [ssl.PEM_cert_to_DER_cert(pem) for pem in chain]
    except (ValueError, TypeError, AttributeError) as error:
        raise lied("step-ca says that it signed and sends something that is no certificate.", remedy=_REMEDY_OTHERWISE) from error


def verify_revoked(answer: Answer) -> None:
    """Return when the serial is on the list, by this request or an earlier one.

    Raises:
        CaRefused, CaUnreachable: the revocation is still owed.
    """
    already = answer.status == HTTPStatus.BAD_REQUEST and "already revoked" in _sentence(answer)
    if answer.status != HTTPStatus.OK and not already:
        raise error_of(answer)


def verify_healthy(answer: Answer) -> None:
    """Return when step-ca says that it is well; raises CaUnreachable otherwise."""
    if answer.status != HTTPStatus.OK or _parse_object(answer.body).get("status") != "ok":
        raise unreachable(f"step-ca answers its health check with {answer.status}.", remedy=_REMEDY_FAILED)


def error_of(answer: Answer) -> CaError:
    """Return the typed error of an answer that is no success."""
    status, sentence = answer.status, _sentence(answer)
    if 400 <= status < 500:
        return refused(
            f"step-ca refused with {status}{sentence and f': {sentence}'}",
            remedy=_REMEDIES.get(status, _REMEDY_OTHERWISE),
            may_have_signed=status not in _CANNOT_HAVE_SIGNED,
        )
    remedy = _REMEDY_FAILED if status >= 500 else _REMEDY_OTHERWISE
    return unreachable(f"step-ca failed with {status}{sentence and f': {sentence}'}", remedy=remedy)


def _sentence(answer: Answer) -> str:
    """Return step-ca's own words, made safe for a log: it repeats names that a stranger chose."""
    message = _parse_object(answer.body).get("message")
    if not isinstance(message, str):
        return ""
    return "".join(c if " " <= c <= "~" else "?" for c in message[:_SENTENCE_MAX])


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}

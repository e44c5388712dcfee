"""What every authority is told about the certificate to sign: the claims of one one-time token.

step-ca gets them signed, over HTTPS; the embedded authority gets them as they are. The template
(infra/step-ca/federation-leaf.tpl) reads ``sub`` and the ``mosaic_`` ones.
"""

import base64
from typing import Any, Final

from cryptography import x509
from mosaic_common.der import UNPARSABLE
from mosaic_common.warrants import Warrant
from mosaic_common.x509 import Csr

GRANT_ID_CLAIM: Final = "mosaic_grant_id"
SUBJECT_USER_ID_CLAIM: Final = "mosaic_subject_user_id"
SERIAL_CLAIM: Final = "mosaic_serial"
CONFIRMATION_CLAIM: Final = "x5rt#S256"


def signing_claims(csr: Csr, warrant: Warrant) -> dict[str, Any]:
    """Return the claims that order this CSR's certificate, under the warrant's own jti: single-use across every replica."""
    return {
        "jti": str(warrant.jti),
        "sub": warrant.common_name,
        "sans": _requested_names(csr),
        "cnf": {CONFIRMATION_CLAIM: base64url(csr.sha256)},
        GRANT_ID_CLAIM: str(warrant.grant_id),
        SUBJECT_USER_ID_CLAIM: str(warrant.subject_user_id),
        # Text, because 128 bits do not survive a JSON number.
        SERIAL_CLAIM: str(warrant.serial),
    }


def base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _requested_names(csr: Csr) -> list[str]:
    """Return the SANs that the CSR asks for.

    They are ignored by the template, like every extension asked for; but step-ca refuses a CSR whose SANs the token does not name.
    """
    try:
        names = x509.load_der_x509_csr(csr.der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNPARSABLE):
        return []
    compared = (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier, x509.IPAddress)
    return [str(name.value) for name in names if isinstance(name, compared)]

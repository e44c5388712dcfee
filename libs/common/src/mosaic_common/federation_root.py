"""The one root that federation certificates lead to. Configuration, never anybody's word."""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mosaic_common.errors import ConfigurationError

DEV_ONLY = "DEV ONLY"
"""In the subject of every embedded authority's root."""


def parse_federation_root(pem: bytes, *, name: str, environment: str) -> bytes:
    """Return the root alone, re-encoded in PEM, without whatever else stood around it.

    Args:
        name: where it came from, for the sentence.
        environment: production refuses the root of an embedded authority.

    Raises:
        ConfigurationError: not exactly one certificate, or a DEV ONLY root in production.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        certificates = []
    if len(certificates) != 1:
        raise ConfigurationError(f"{name} has to hold exactly one certificate in PEM.")
    if environment != "dev" and DEV_ONLY in certificates[0].subject.rfc4514_string():
        raise ConfigurationError(f"{name} says {DEV_ONLY} in its subject; production needs step-ca's root.")
    return certificates[0].public_bytes(Encoding.PEM)
